"""No worker, and nothing that one started, outlives its pool or the pool's process."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import jaxrl_tok.rewards
from jaxrl_tok.rewards.pool import RewardPool, RewardSpec

HERE = "tests.rewards.functions"


def alive(pid: int) -> bool:
    """Whether the process runs; one that waits for its parent to read its status does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def until(condition, seconds=10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


def pids(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()] if file.exists() else []


def test_the_protocol_imports_no_pickle():
    files = list(Path(jaxrl_tok.rewards.__file__).parent.glob("*.py"))
    assert len(files) >= 9
    for file in files:
        nodes = ast.walk(ast.parse(file.read_text()))
        names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        assert not names & {"pickle", "marshal", "shelve", "multiprocessing", "concurrent.futures"}, file


def test_a_worker_is_light_and_off_the_accelerator(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    modules = ["jax", "jaxlib", "numpy", "multiprocessing", "asyncio", "jaxrl_tok.rewards.worker"]
    specs = [RewardSpec("a", f"{HERE}:imported"), RewardSpec("b", f"{HERE}:environment")]
    with RewardPool(specs, workers=1) as pool:
        parts = pool.score(modules, [*modules[:5], "JAX_PLATFORMS"]).parts
        np.testing.assert_array_equal(parts, [[0, 0]] * 5 + [[0, 1]])
        np.testing.assert_array_equal(pool.score(["?"], ["jaxrl_tok.rewards.worker"]).parts, [[1, 0]])


def test_a_timeout_kills_what_the_worker_started(tmp_path):
    file = tmp_path / "pids"
    specs = [RewardSpec("a", f"{HERE}:pids_then_hang"), RewardSpec("b", f"{HERE}:constant")]
    with RewardPool(specs, workers=1, timeout=0.8) as pool:
        pool._answered[0] = True  # or the hang would be reported as a function that never works
        batch = pool.score(["?"], ["x"], {"file": [str(file)]})
        assert batch.outcomes["a"]["timed_out"] == 1 and batch.outcomes["b"]["scored"] == 1
        started = pids(file)
        assert len(started) == 3
        assert not any(map(alive, started))


PARENT = """
import sys
from jaxrl_tok.rewards.pool import RewardPool, RewardSpec
specs = [RewardSpec("a", "tests.rewards.functions:pids_then_hang")]
pool = RewardPool(specs, workers=2, chunk=1, timeout=60.0)
pool.score(["?"] * 2, ["x"] * 2, {"file": [sys.argv[1]] * 2})
"""


def test_killing_the_pools_process_leaves_nothing_behind(tmp_path):
    file = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file)], cwd=Path(__file__).parents[2])
    try:
        assert until(lambda: len(pids(file)) == 6, 30.0)
        assert all(map(alive, pids(file)))
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not any(map(alive, pids(file))))


def test_killing_the_guard_kills_the_worker(tmp_path):
    file = tmp_path / "pids"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(file)], cwd=Path(__file__).parents[2])
    try:
        assert until(lambda: len(pids(file)) == 6, 30.0)
        guard, worker, child = pids(file)[:3]
        os.kill(guard, signal.SIGKILL)
        assert until(lambda: not alive(worker))
        os.kill(child, signal.SIGKILL)  # in a session of its own, with nobody left who knows it
    finally:
        parent.kill()
        parent.wait()
    assert until(lambda: not any(map(alive, pids(file))))


def test_closing_is_quick_and_may_happen_twice():
    pool = RewardPool([RewardSpec("a", f"{HERE}:constant")], workers=2)
    pool.ready()
    start = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - start < 2
