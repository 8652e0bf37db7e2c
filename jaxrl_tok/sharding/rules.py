"""From logical axes of parameters to axes of the mesh: a strategy is a table."""

import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok.errors import ShardingError, nearest

Rules = Mapping[str, str | tuple[str, ...] | None]

# Logical axis -> mesh axis or axes, None = on every device. Covers FSDP over the model's width, tensor parallelism
# over heads, feed-forward part and vocabulary, and experts; a mesh axis of size 1 splits nothing.
RULES: Rules = {
    "layers": None,
    "embed": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "ffw": "tensor",
    "vocab": "tensor",
    "experts": ("expert", "tensor"),
}
# While completions are decoded: whole along the width, so that a step does not gather them.
ROLLOUT_RULES: Rules = {**RULES, "embed": None}
# Left whole where their size does not divide: a vocabulary comes with its tokenizer.
IF_DIVISIBLE = ("vocab",)


def sharding(
    name: str,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    mesh: Mesh,
    rules: Rules = RULES,
) -> NamedSharding:
    """Returns the sharding of one parameter.

    Raises:
      ShardingError: unknown logical axis, two dimensions on one mesh axis, or a size that does not divide (but for
        the axes of `IF_DIVISIBLE`, which are then not split).
    """
    spec: list[str | tuple[str, ...] | None] = []
    taken: set[str] = set()
    for size, axis in zip(shape, axes, strict=True):
        targets = _targets(name, axis, mesh, rules)
        shards = math.prod(mesh.shape[target] for target in targets)
        if size % shards and axis in IF_DIVISIBLE:
            targets = ()
        elif size % shards:
            raise ShardingError(
                f"{name}: dimension {axis!r} of {size} does not divide over {shards} ({' x '.join(targets)}); "
                f"expected a divisor of {size}"
            )
        for target in targets:
            if target in taken:
                raise ShardingError(f"{name}: two dimensions of {axes} map to mesh axis {target!r}")
        taken |= {*targets}
        spec.append(targets[0] if len(targets) == 1 else targets or None)
    return NamedSharding(mesh, PartitionSpec(*spec))


def param_shardings(specs: Any, mesh: Mesh, rules: Rules = RULES) -> Any:
    """Returns the shardings of a whole tree of `ParamSpec`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, spec: sharding(jax.tree_util.keystr(path), spec.shape, spec.axes, mesh, rules),
        specs,
        is_leaf=lambda x: hasattr(x, "axes"),
    )


def _targets(name: str, axis: str | None, mesh: Mesh, rules: Rules) -> tuple[str, ...]:
    """The mesh axes of more than one device that a logical axis is split over."""
    if axis is None:
        return ()
    if axis not in rules:
        raise ShardingError(f"{name}: unknown logical axis {axis!r}; {nearest(axis, rules)}")
    rule = rules[axis]
    names = (rule,) if isinstance(rule, str) else rule or ()
    return tuple(target for target in names if mesh.shape[target] > 1)
