"""One tree of specs says what a model's parameters are; everything else is derived from it."""

import dataclasses
import hashlib
import math
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """Shape, logical axes and initialisation of one parameter.

    `axes` has a name for every dimension (`None` = never sharded); the sharding rules map names to mesh axes.
    `scale` is the standard deviation of a normal initialisation; `None` fills with `fill`.
    `decay` says whether weight decay applies (matrices yes, norms and biases no).
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    scale: float | None = None
    fill: float = 0.0

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
        if spec.scale is None:
            return jnp.full(spec.shape, spec.fill, dtype)
        digest = hashlib.sha256(jax.tree_util.keystr(path).encode()).digest()
        key = jax.random.fold_in(jax.random.key(seed), int.from_bytes(digest[:4], "big"))
        return (spec.scale * jax.random.truncated_normal(key, -3, 3, spec.shape, jnp.float32)).astype(dtype)

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=_is_spec)


def abstract(specs: Any, dtype: Any = jnp.float32) -> Any:
    """Returns the shapes and dtypes that `init` would give, without computing them."""
    return tree_map_specs(lambda s: jax.ShapeDtypeStruct(s.shape, dtype), specs)


def count(specs: Any) -> int:
    """Returns the number of parameters."""
    return sum(math.prod(s.shape) for s in jax.tree.leaves(specs, is_leaf=_is_spec))


def decay_mask(specs: Any) -> Any:
    """Returns a tree of bools: which parameters weight decay applies to."""
    return tree_map_specs(lambda s: s.decay, specs)
