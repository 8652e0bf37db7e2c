"""From logical axes of parameters to axes of the mesh: a strategy is a table."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok.errors import ShardingError, nearest

# Logical axis -> mesh axis, None = replicated. Covers FSDP over the model width and tensor parallelism over
# heads, feed-forward and vocabulary; on a mesh where those axes have size 1 everything is replicated.
RULES: Mapping[str, str | None] = {
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffw": "tensor",
    "vocab": "tensor",
    "experts": "expert",
}


def sharding(
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    mesh: Mesh,
    rules: Mapping[str, str | None] = RULES,
) -> NamedSharding:
    """Returns the sharding of one parameter.

    Raises:
      ShardingError: unknown logical axis, two dimensions on one mesh axis, or a size that does not divide.
    """
    spec: list[str | None] = []
    for size, axis in zip(shape, axes, strict=True):
        if axis is not None and axis not in rules:
            raise ShardingError(f"{name}: unknown logical axis {axis!r}; {nearest(axis, rules)}")
        target = rules[axis] if axis is not None else None
        if target is not None and mesh.shape[target] > 1:
            if target in spec:
                raise ShardingError(f"{name}: two dimensions of {axes} map to mesh axis {target!r}")
            if size % mesh.shape[target]:
                raise ShardingError(
                    f"{name}: dimension {axis!r} of {size} does not divide over {mesh.shape[target]} ({target})"
                )
            spec.append(target)
        else:
            spec.append(None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def param_shardings(specs: Any, mesh: Mesh, rules: Mapping[str, str | None] = RULES) -> Any:
    """Returns the shardings of a whole tree of `ParamSpec`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, spec: sharding(jax.tree_util.keystr(path), spec.shape, spec.axes, mesh, rules),
        specs,
        is_leaf=lambda x: hasattr(x, "axes"),
    )
