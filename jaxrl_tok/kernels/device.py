"""What is compiled for, as far as Python can know it before tracing ends."""

from typing import NamedTuple

import jax


class Device(NamedTuple):
    """A kind of device."""

    platform: str  # "cpu", "gpu" or "tpu"
    kind: str  # as its maker calls it: "TPU v6 lite", "NVIDIA H100 80GB HBM3"


def target() -> Device:
    """Returns the device of the mesh in use, where that names one (ahead-of-time compilation), else the default."""
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    if device is None:
        return Device(jax.default_backend(), jax.devices()[0].device_kind)
    return Device("gpu" if device.platform == "cuda" else device.platform, device.device_kind)
