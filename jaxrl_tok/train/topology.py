"""Chips that are not there, for a compiler to compile for."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.train.chips import CPU, Chip, chip

# libtpu is not to look for a TPU, nor to mind another program that compiles.
LIBTPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# What the compiler is told of a GPU that is not there, in XLA's text form; the interconnect is that of one machine.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: 84942979072 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 } registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 } device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """The chips that a plan is for."""

    text: str
    chip: Chip | None  # None for a CPU
    devices: tuple[Any, ...]


def topology(text: str, slices: int = 1) -> Topology:
    """Returns the chips of a topology such as `v5p:8x8x8`, `h100:8` or `cpu:8`; a TPU has as many slices as are said.

    Raises:
      ConfigError: no such chip or shape, or what compiles for it is not installed.
    """
    name, _, shape = text.partition(":")
    kind = chip(name)
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise ConfigError(f"--topology {text}: expected a chip and a shape, as in v5p:8x8x8, h100:8 or cpu:8")
    if kind is None:
        return Topology(text, None, tuple(_cpus(text, math.prod(map(int, shape.split("x"))))))
    found = _gpus(text, shape) if name.endswith("100") else _tpus(text, name, shape, slices)
    return Topology(text, kind, tuple(found))


def _cpus(text: str, count: int) -> Sequence[Any]:
    # Refused once JAX has started; then there are as many as there are.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
    devices = jax.devices(CPU)
    if len(devices) < count:
        raise ConfigError(f"--topology {text}: this process has {len(devices)} CPU devices; set JAX_NUM_CPU_DEVICES")
    return devices[:count]


def _tpus(text: str, name: str, shape: str, slices: int) -> Sequence[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            f"--topology {text}: compiling for TPUs needs libtpu, and no TPU; install the extra: "
            f"tools/run --extra tpu jaxrl-tok plan ..., or pip install 'jaxrl_tok[tpu]'"
        )
    for key, value in LIBTPU.items():
        os.environ.setdefault(key, value)
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if name == "v4":
        options["chip_config_name"] = "megacore"
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{name}:{shape}", **options).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f"--topology {text}: {str(error).splitlines()[0][:300]}") from None


def _gpus(text: str, shape: str) -> Sequence[Any]:
    if not text.startswith("h100"):
        raise ConfigError(f"--topology {text}: of GPUs only the H100 can be compiled for; expected h100:{shape}")
    count = math.prod(map(int, shape.split("x")))
    grid = f"1x1x{count}"
    try:
        found = topologies.get_topology_desc(platform="cuda", topology_name=grid, topology=grid, target_config=H100)
    except (RuntimeError, ValueError, NotImplementedError):
        raise ConfigError(
            f"--topology {text}: compiling for GPUs needs JAX's CUDA plugin, and no GPU; install the extra: "
            f"tools/run --extra cuda jaxrl-tok plan ..., or pip install 'jaxrl_tok[cuda]'"
        ) from None
    return found.devices
