"""Runs of the command in processes of their own, to be killed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from jaxrl_tok.io import manifest
from jaxrl_tok.io.metrics import read_lines

RUN = Path(__file__).with_name("run.toml")


def start(
    folder: Path,
    *sets: str,
    cache: Path,
    launcher: tuple[str, ...] = (),
    module: tuple[str, ...] = ("jaxrl_tok",),
    **more: str,
) -> subprocess.Popen:
    """Starts `jaxrl-tok train` on the small run; compiled programs are shared through `cache`."""
    arguments = [f"--set={item}" for item in (f"run.dir={folder}", *sets)]
    settings = more | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0",
    }
    return subprocess.Popen(
        [*launcher, sys.executable, "-m", *module, "train", str(RUN), *arguments],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen, code: int = 0) -> str:
    """Waits for the end, checks the exit code, returns what was printed."""
    out, _ = process.communicate(timeout=300)
    assert process.returncode == code, out
    return out


def wait_until(process: subprocess.Popen, condition) -> None:
    """Returns as soon as `condition()` holds; fails if the process ends before."""
    end = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.002)


def steps(folder: Path) -> int:
    """How many lines of metrics there are."""
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def writing(folder: Path) -> bool:
    """Whether a checkpoint after the first one is being written: a folder of it is there and not yet sealed."""
    folders = [path for path in (folder / "checkpoints").glob("[0-9]*") if path.is_dir()]
    return steps(folder) > 1 and any(not manifest.is_sealed(path) for path in folders)


def record(folder: Path) -> tuple[list, list, dict[str, bytes]]:
    """Metrics without clocks, completions, and every array of the last checkpoint as bytes."""
    from jaxrl_tok.config.load import load_run
    from jaxrl_tok.io.checkpoint import Checkpoints
    from jaxrl_tok.train.session import _build

    lines = [
        {k: v for k, v in line.items() if not k.startswith(("time/", "perf/"))}
        for line in read_lines(folder / "metrics.jsonl")
    ]
    built, _ = _build(load_run(folder / "config.toml"))
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(built.main.template)
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(restored.state)
    arrays = {jax.tree_util.keystr(k): np.asarray(v).tobytes() for k, v in leaves} | {"index": bytes([restored.step])}
    completions = [json.dumps(line, sort_keys=True) for line in read_lines(folder / "completions.jsonl")]
    return lines, completions, arrays
