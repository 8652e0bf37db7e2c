"""What is known of accelerators: the numbers behind a plan's roofline."""

import dataclasses

from jaxrl_tok.errors import ConfigError, nearest

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One accelerator, as its maker gives it; what JAX shows as one device."""

    name: str
    flops: float  # bfloat16 products and sums per second, dense
    hbm: int  # bytes that a program may use
    bandwidth: float  # bytes per second from HBM
    links: float  # bytes per second that it sends and receives over all its links to other chips


# TPU: https://cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e (peak compute, HBM bandwidth, interconnect, which they
# give in Gbit/s), and of HBM what the compiler leaves to programs, as it says when one does not fit. v4 with both of
# its cores as one device. H100 SXM: NVIDIA H100 datasheet. A100 SXM 80 GB: NVIDIA A100 datasheet. Of their memory, what
# JAX takes at its start, three quarters.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, int(30.75 * GIB), 1228e9, 300e9),
        Chip("v5e", 197e12, int(15.75 * GIB), 819e9, 200e9),
        Chip("v5p", 459e12, int(95.74 * GIB), 2765e9, 600e9),
        Chip("v6e", 918e12, int(31.25 * GIB), 1640e9, 448e9),
        Chip("h100", 989e12, int(0.75 * 80e9), 3350e9, 900e9),
        Chip("a100", 312e12, int(0.75 * 80e9), 2039e9, 600e9),
    )
}
# Of a CPU nothing is known: the memory of this machine, and no times.
CPU = "cpu"


def chip(name: str) -> Chip | None:
    """Returns the numbers of a chip; None for a CPU.

    Raises:
      ConfigError: no chip of that name.
    """
    if name == CPU:
        return None
    if name not in CHIPS:
        raise ConfigError(f"--topology {name}: no chip of that name; {nearest(name, [*CHIPS, CPU])}")
    return CHIPS[name]
