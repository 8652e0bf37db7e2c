"""Where activations lie: a table from what an axis is to axes of the mesh in use.

The mesh is the one that JAX has in context while it traces (`jax.set_mesh`, `jax.sharding.use_abstract_mesh`); without
one, and along axes over which `shard_map` has already split its arrays, nothing happens.
"""

import math
from collections.abc import Mapping

import jax
from jax.sharding import AxisType, PartitionSpec
from jaxtyping import Array

from jaxrl_tok.sharding.mesh import BATCH_AXES

# Logical axis of an activation -> the mesh axes it is split over, in this order.
ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "batch": BATCH_AXES,  # prompts
    "tokens": ("sequence", "tensor"),  # positions between layers, where each is on its own
    "positions": ("sequence",),
    "heads": ("tensor", "sequence"),  # inside attention, which looks over all positions
    "ffw": ("tensor",),
    "vocab": ("tensor",),
}


def free_axes() -> dict[str, int]:
    """Returns the sizes of the mesh axes in use that the compiler may still split arrays over."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind != AxisType.Manual and mesh.shape[name] > 1}


def manual_axes() -> dict[str, int]:
    """Returns the sizes of the mesh axes in use over which `shard_map` has already split arrays."""
    mesh = jax.sharding.get_abstract_mesh()
    kinds = zip(mesh.axis_names, mesh.axis_types, strict=True)
    return {name: mesh.shape[name] for name, kind in kinds if kind == AxisType.Manual and mesh.shape[name] > 1}


def spec(shape: tuple[int, ...], *axes: str | None) -> PartitionSpec:
    """Returns how an array is split whose dimensions are the logical `axes`.

    A mesh axis that would not divide its dimension is left out, and so are those after it.
    """
    free, taken = free_axes(), set[str]()
    parts = []
    for size, axis in zip(shape, axes, strict=True):
        names: list[str] = []
        for name in ACTIVATIONS[axis] if axis is not None else ():
            if name not in free or name in taken:
                continue
            if size % math.prod(free[n] for n in (*names, name)):
                break
            names.append(name)
        taken |= {*names}
        parts.append(tuple(names) or None)
    return PartitionSpec(*parts)


def constrain(x: Array, *axes: str | None) -> Array:
    """Lays an activation over the mesh in use by its logical axes; None = not split."""
    if not free_axes():
        return x
    return jax.lax.with_sharding_constraint(x, spec(x.shape, *axes))
