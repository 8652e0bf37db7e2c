"""A state as named arrays, and back: what a checkpoint stores of a pytree.

A leaf's name is its path: `params.layers.wq`, `opt_state.0.mu.layers.wq`. The containers (NamedTuple,
dataclass, `None`, an empty optax state) come from the template of a restore and are not stored.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.sharding.place import put

PyTree = Any


def name_leaves(tree: PyTree) -> dict[str, Any]:
    """Returns {path: leaf} in the order of `jax.tree.leaves`."""
    pairs = jax.tree_util.tree_flatten_with_path(tree)[0]
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in pairs}
    assert len(named) == len(pairs), "two leaves of the state have the same path"
    return named


def describe(leaf: Any) -> str:
    """Returns dtype and shape as `float32[4,8]`."""
    if not hasattr(leaf, "dtype"):
        leaf = np.asarray(leaf)
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def is_empty(leaf: Any) -> bool:
    """Tells whether there is nothing to store: Orbax refuses arrays of size zero."""
    return np.size(leaf) == 0 if not hasattr(leaf, "shape") else 0 in leaf.shape


def to_storable(leaf: Any) -> Any:
    """Returns the leaf as an array of a plain dtype: typed PRNG keys as words, Python numbers as NumPy's."""
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)


def to_target(leaf: Any) -> Any:
    """Returns what to restore for a template's leaf: its stored shape and dtype, and where it shall lie."""
    if not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return np.asarray(leaf)
    stored = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=sharding)


def from_stored(leaf: Any, stored: Any) -> Any:
    """Returns a restored array as the kind of leaf that the template has."""
    if _is_key(leaf):
        return jax.random.wrap_key_data(stored, impl=_key_impl(leaf))
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | np.ndarray):
        return stored
    return stored[()] if isinstance(leaf, np.generic) else stored.item()


def empty_like(leaf: Any) -> Any:
    """Returns the array of size zero that a template's leaf describes."""
    target = to_target(leaf)
    values = np.zeros(target.shape, target.dtype)
    if isinstance(target, jax.ShapeDtypeStruct):
        values = put(values, target.sharding)
    return from_stored(leaf, values)


def mismatches(stored: dict[str, str], wanted: dict[str, str], *, partial: bool) -> list[str]:
    """Returns what keeps a stored state from filling a template, one phrase a leaf.

    Both are {path: `describe(leaf)`}. With `partial` the template may leave stored leaves out.
    """
    phrases = [f"{name} is missing" for name in wanted if name not in stored]
    if not partial:
        phrases += [f"{name} is not in this run's state" for name in stored if name not in wanted]
    both = wanted.keys() & stored.keys()
    phrases += [
        f"{name} is {stored[name]} there and {wanted[name]} here"
        for name in sorted(both)
        if stored[name] != wanted[name]
    ]
    return phrases


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_impl(leaf: Any) -> Any:
    # `key_impl` refuses a ShapeDtypeStruct; a traced key of its dtype tells as well.
    found = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return found[0]
