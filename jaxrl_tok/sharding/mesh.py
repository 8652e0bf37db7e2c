"""The device mesh: which device stands where along which axis."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from jaxrl_tok.errors import ShardingError

# By how much crosses the axis, least first: neighbours along `tensor` are the nearest.
AXES = ("data", "fsdp", "expert", "sequence", "tensor")
# The axes over which a batch of prompts is split.
BATCH_AXES = ("data", "fsdp", "expert")


def make_mesh(
    sizes: dict[str, int], devices: Sequence[Any] | None = None, *, slices: int = 1, slice_axis: str = "data"
) -> Mesh:
    """Returns a mesh over the devices; one size may be -1 and takes what the others leave.

    Devices that are near each other in their machine lie near each other along the last axes. Of several `slices`,
    which a slower network joins, each holds one part of `slice_axis`, and nothing else goes from one to another.
    Axes are Auto: the compiler places what is not annotated. The devices need not be there: those of
    `jax.experimental.topologies.get_topology_desc` give a mesh to compile for.

    Raises:
      ShardingError: the sizes do not multiply to the number of devices, or the slices are not those of the devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    shape = [sizes.get(axis, 1) for axis in AXES]
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    asked = ", ".join(f"{axis} = {sizes.get(axis, 1)}" for axis in AXES)
    if -1 in shape or math.prod(shape) != len(devices):
        raise ShardingError(f"mesh: {asked} does not fit {len(devices)} devices; one axis may be -1 to fill")
    at = AXES.index(slice_axis)
    if shape[at] % slices:
        raise ShardingError(f"mesh: {slice_axis} = {shape[at]} does not divide over {slices} slices")
    inside = [size // slices if i == at else size for i, size in enumerate(shape)]
    parts = [_nearest(inside, part) for part in _slices(devices, slices)]
    return Mesh(np.concatenate(parts, axis=at), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _nearest(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)


def _slices(devices: Sequence[Any], slices: int) -> list[list[Any]]:
    """Returns the devices of each slice, by what they say of themselves, else in equal parts of their order."""
    of = [getattr(device, "slice_index", None) or 0 for device in devices]
    found = len({*of})
    if found > 1 and found != slices:
        raise ShardingError(f"mesh.slices = {slices}: the devices lie in {found} slices")
    if found == 1:
        size = len(devices) // slices
        return [list(devices[i * size : (i + 1) * size]) for i in range(slices)]
    return [[device for device, index in zip(devices, of, strict=True) if index == i] for i in sorted({*of})]


def batch_shards(mesh: Mesh) -> int:
    """Returns over how many shards a batch of prompts is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
