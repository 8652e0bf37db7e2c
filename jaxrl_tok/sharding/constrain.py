"""Where activations lie: a table from what an axis is to axes of the mesh in use.

The mesh is the one that JAX has in context while it traces (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`); without
one, and along axes over which `shard_map` has already split its arrays, nothing happens.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

from jaxrl_tok.sharding.mesh import BATCH_AXES

# Logical axis -> the mesh axes it is split over, in this order, as far as they divide its size.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "batch": BATCH_AXES,  # prompts
    "tokens": ("sequence", "tensor"),  # positions between layers, where each is on its own
    "completions": ("sequence",),  # of a prompt
    "positions": ("sequence",),
    "heads": ("tensor", "sequence"),  # key/value heads inside attention, which looks over all positions
    "queries": ("tensor", "sequence"),  # the query heads of each, where there are too few of those
    "vocab": ("tensor",),
    "embed": ("fsdp",),
}

Axes = Sequence[str | None]


def free_axes() -> dict[str, int]:
    """Returns the sizes of the mesh axes in use that the compiler may still split arrays over."""
    return _axes(manual=False)


def manual_axes() -> dict[str, int]:
    """Returns the sizes of the mesh axes in use over which `shard_map` has already split arrays."""
    return _axes(manual=True)


def _axes(manual: bool) -> dict[str, int]:
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {
        name: mesh.shape[name] for name, kind in kinds if (kind == AxisType.Manual) is manual and mesh.shape[name] > 1
    }


def layout(shapes: Sequence[tuple[int, ...]], axes: Sequence[Axes]) -> dict[str, tuple[str, ...]]:
    """Returns the mesh axes of each logical axis of several arrays, so that all of them are split alike.

    A mesh axis that would not divide one of its dimensions is left out, and so are those after it; what an earlier
    logical axis of the same array has taken is left out too.
    """
    free = free_axes()
    found: dict[str, tuple[str, ...]] = {}
    for logical in (axis for one in axes for axis in one if axis is not None):
        if logical in found:
            continue
        beside = {axis for one in axes if logical in one for axis in one}
        taken = {name for axis in beside for name in found.get(axis or "", ())}
        sizes = [shape[i] for shape, one in zip(shapes, axes, strict=True) for i, a in enumerate(one) if a == logical]
        names: list[str] = []
        for name in (n for n in ACTIVATIONS[logical] if n in free and n not in taken):
            if any(size % math.prod(free[n] for n in (*names, name)) for size in sizes):
                break
            names.append(name)
        found[logical] = tuple(names)
    # Parts of a width are gathered by rows that are split over the same devices.
    if not {*found.get("embed", ())} <= {*found.get("batch", ())}:
        found["embed"] = ()
    return found


def partition(axes: Axes, over: Mapping[str, tuple[str, ...]]) -> PartitionSpec:
    """Returns how an array of these logical axes is split under a `layout`."""
    return PartitionSpec(*(over[axis] or None if axis is not None else None for axis in axes))


def spec(shape: tuple[int, ...], *axes: str | None) -> PartitionSpec:
    """Returns how an array is split whose dimensions are the logical `axes`."""
    return partition(axes, layout([shape], [axes]))


def constrain(x: Array, *axes: str | None) -> Array:
    """Lays an activation over the mesh in use by its logical axes; None = not split."""
    if not free_axes():
        return x
    return jax.lax.with_sharding_constraint(x, spec(x.shape, *axes))
