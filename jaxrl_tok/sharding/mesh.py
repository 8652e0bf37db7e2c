"""The device mesh."""

import math
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AxisType, Mesh

from jaxrl_tok.errors import ShardingError

AXES = ("data", "fsdp", "expert", "sequence", "tensor")
# The axes over which a batch of prompts is split.
BATCH_AXES = ("data", "fsdp", "expert")


def make_mesh(sizes: dict[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Returns a mesh over all devices; one size may be -1 and takes what the others leave.

    Axes are Auto: the compiler places what is not annotated.

    Raises:
      ShardingError: the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    shape = [sizes.get(axis, 1) for axis in AXES]
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and len(devices) % known == 0:
        shape[shape.index(-1)] = len(devices) // known
    if -1 in shape or math.prod(shape) != len(devices):
        asked = ", ".join(f"{axis} = {sizes.get(axis, 1)}" for axis in AXES)
        raise ShardingError(f"mesh: {asked} does not fit {len(devices)} devices; one axis may be -1 to fill")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def batch_shards(mesh: Mesh) -> int:
    """Returns over how many shards a batch of prompts is split."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)
