"""One tree of specs says what a model's parameters are; everything else is derived from it."""

import dataclasses
import hashlib
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """Shape, logical axes and initialisation of one parameter.

    `axes` has a name for every dimension (`None` = never sharded); the sharding rules map names to mesh axes.
    `scale` is the standard deviation of a normal initialisation; `None` fills with `fill`.
    `decay` says whether weight decay applies (matrices yes, norms and biases no).
    `trained` says whether the optimizer changes it, and `group` with which learning rate: the policy's or the critic's.
    `dtype` is its own where it does not follow that of the other parameters.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    scale: float | None = None
    fill: float = 0.0
    trained: bool = True
    group: Literal["policy", "critic"] = "policy"
    dtype: str | None = None

    @property
    def decay(self) -> bool:
        """Whether weight decay applies to this parameter."""
        return self.scale is not None


def _is_spec(x: Any) -> bool:
    return isinstance(x, ParamSpec)


def tree_map_specs(f: Any, specs: Any) -> Any:
    """Maps `f(spec)` over a tree of `ParamSpec`."""
    return jax.tree.map(f, specs, is_leaf=_is_spec)


def init(specs: Any, seed: int, dtype: Any = jnp.float32) -> Any:
    """Draws every parameter from a key of its own, named by its path, so that adding one changes no other."""

    def one(path: Any, spec: ParamSpec) -> jax.Array:
        kind = spec.dtype or dtype
        if spec.scale is None:
            return jnp.full(spec.shape, spec.fill, kind)
        digest = hashlib.sha256(jax.tree_util.keystr(path).encode()).digest()
        key = jax.random.fold_in(jax.random.key(seed), int.from_bytes(digest[:4], "big"))
        return (spec.scale * jax.random.truncated_normal(key, -3, 3, spec.shape, jnp.float32)).astype(kind)

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=_is_spec)


def abstract(specs: Any, dtype: Any = jnp.float32) -> Any:
    """Returns the shapes and dtypes that `init` would give, without computing them."""
    return tree_map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, jnp.dtype(s.dtype or dtype)), specs)


def count(specs: Any) -> int:
    """Returns the number of parameters."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=_is_spec))


def decay_mask(specs: Any) -> Any:
    """Returns a tree of bools: which parameters weight decay applies to."""
    return tree_map_specs(lambda s: s.decay, specs)


def split(specs: Any, tree: Any) -> tuple[Any, Any]:
    """Parts a tree as the parameters into what is trained and what is not, None where the other one has a leaf.

    The second is None as a whole where all are trained.
    """
    if all(spec.trained for spec in jax.tree.leaves(specs, is_leaf=_is_spec)):
        return tree, None
    trained = jax.tree.map(lambda spec, x: x if spec.trained else None, specs, tree, is_leaf=_is_spec)
    return trained, jax.tree.map(lambda spec, x: None if spec.trained else x, specs, tree, is_leaf=_is_spec)


def digest(tree: Any) -> str:
    """Returns a checksum of parameters: the same on any mesh, another if a bit differs or two values change places.

    The sum of bits times an odd number of the place, in whole numbers modulo 2^32, where the order does not matter.
    """
    sums = jax.device_get(jax.jit(lambda tree: jax.tree.map(_sum_of_bits, tree))(tree))
    named = [(jax.tree_util.keystr(path), int(x)) for path, x in jax.tree_util.tree_leaves_with_path(sums)]
    return hashlib.sha256(repr(named).encode()).hexdigest()[:16]


def _sum_of_bits(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint16 if x.dtype.itemsize == 2 else jnp.uint32).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(bits * (place * jnp.uint32(2654435762) + jnp.uint32(1)), dtype=jnp.uint32)
