"""Strictness for every test: dtypes, ranks and warnings; four CPU devices; the count of skips at the end."""

import os

# Before jax is imported: read once, at its start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax

# Tests compile much and compute little. The flags are read when the first program is compiled, and processes that tests
# start inherit them. On one thread, as each of pytest's processes has a core: a tenth less work. And without the newer
# emitters of fused loops, whose code is faster and takes 2.4 times as long to compile; later versions have no others.
flags = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    flags += ["--xla_cpu_use_fusion_emitters=false"]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *flags])
jax.config.update("jax_disable_most_optimizations", True)

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

import collections  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402


def pytest_terminal_summary(terminalreporter):
    """Ends every run with how many tests were skipped, and for want of what; SKIPPED names a file for their names."""
    if os.environ.get("SKIPPED"):
        names = dict.fromkeys(report.nodeid for report in terminalreporter.stats.get("skipped", ()))
        Path(os.environ["SKIPPED"]).write_text("".join(f"{name}\n" for name in names))
    missing = collections.Counter(
        report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", ())
    )
    terminalreporter.write_line(f"skipped for want of something: {sum(missing.values())}")
    for reason, count in sorted(missing.items()):
        terminalreporter.write_line(f"  {count} x {reason}")


@pytest.fixture
def getkey():
    """Returns a function that gives a new key each time, so that no test reuses one by accident."""
    keys = iter(range(10**6))
    return lambda: jax.random.key(next(keys))


@pytest.fixture
def standard_promotion():
    """Ordinary dtype promotion, for a test that calls into a library which is not written for the strict one."""
    with jax.numpy_dtype_promotion("standard"):
        yield
