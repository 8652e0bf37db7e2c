"""Runs of several processes on this machine: they leave what one leaves, and end together."""

import os
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from jaxrl_tok.io.metrics import read_lines
from tests.train.processes import finish, record, start, steps, wait_until

pytestmark = pytest.mark.slow
LAUNCHER = Path(__file__).parents[2] / "tools" / "launch" / "local.py"
# Eight prompts, so that they divide over eight devices.
SETS = ("rollout.prompts=8",)
# What the transport of jax' collectives prints, which several of its threads do at once, between each other's words.
GLOO = r"\[Gloo\] Rank | is connected to | peer ranks\. |Expected number of connected peer ranks is : |\d+|\s"
IN_PARTS = ("rollout.chunk=3", "rollout.max_prompt=16", "rollout.buckets=2")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def launch(folder, count, devices, cache, *sets, **settings):
    launcher = (sys.executable, str(LAUNCHER), "-n", str(count), "--devices", str(devices), "--")
    return start(folder, *SETS, *sets, cache=cache, launcher=launcher, **settings)


def ids(process):
    """The ids of the processes, from the launcher's first line."""
    return [int(found) for found in re.findall(r"has id (\d+)", process.stdout.readline())]


def by_gloo(line):
    return re.sub(GLOO, "", line) == ""


def close(got, expected):
    """Same steps, same completions to the letter, numbers but for the order of sums."""
    assert got[1] == expected[1]
    assert len(got[0]) == len(expected[0])
    for one, other in zip(got[0], expected[0], strict=True):
        assert one.keys() == other.keys()
        for name in one:
            # A difference of log-probs that should be 0 is all rounding.
            slack = 1e-6 if name.startswith("sampling/") else 1e-7
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=slack, err_msg=name)
    assert got[2].keys() == expected[2].keys()
    for name in got[2]:
        if name == "index":
            assert got[2][name] == expected[2][name]
            continue
        one, other = (np.frombuffer(side[2][name], np.float32).astype(np.float64) for side in (got, expected))
        assert np.linalg.norm(one - other) <= 1e-5 * np.linalg.norm(other), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory, cache):
    """What one process with eight devices leaves."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start(folder, *SETS, cache=cache, JAX_NUM_CPU_DEVICES="8"))
    return record(folder)


def test_two_processes_of_four_devices_leave_what_one_of_eight_leaves(tmp_path, cache, whole):
    """They sample in chunks, at half of a limit of prompts that is twice that of the one, which samples in one call."""
    out = finish(launch(tmp_path / "run", 2, 4, cache, *IN_PARTS))
    close(record(tmp_path / "run"), whole)
    # One voice: the second process prints nothing of its own.
    assert not [line for line in out.splitlines() if line.startswith("[1] ") and not by_gloo(line[4:])]


def test_what_gloo_prints_is_known_in_pieces():
    whole = "[Gloo] Rank 1 is connected to 1 peer ranks. Expected number of connected peer ranks is : 1"
    assert by_gloo(whole) and by_gloo("[Gloo] Rank " + whole) and by_gloo(whole.removeprefix("[Gloo] Rank "))
    assert not by_gloo(whole + " resumed at step 3") and not by_gloo("step 4 of 7")


def test_processes_agree_on_what_the_next_round_samples(tmp_path, cache):
    sets = ("recipe=dapo_dynamic", "recipe.rollout.rounds=3")
    finish(start(tmp_path / "one", *SETS, *sets, cache=cache, JAX_NUM_CPU_DEVICES="2"))
    finish(launch(tmp_path / "two", 2, 1, cache, *sets))
    one = record(tmp_path / "one")
    assert any(line["rollout/rounds"] > 1 for line in one[0][1:])
    close(record(tmp_path / "two"), one)


def test_a_run_goes_on_with_other_processes_and_devices(tmp_path, cache, whole):
    """From 8 devices to 4 to 1: the same questions in the same order, the same parameters."""
    folder = tmp_path / "run"
    for count, devices, enough in ((2, 4, 2), (2, 2, 4)):
        process = launch(folder, count, devices, cache)
        pids = ids(process)
        wait_until(process, lambda enough=enough: steps(folder) >= enough)
        os.kill(pids[1], signal.SIGTERM)  # one is told, all stop
        assert "stopped by a signal" in finish(process, 143)
    assert steps(folder) < 7
    assert "resumed at step" in finish(start(folder, *SETS, cache=cache, JAX_NUM_CPU_DEVICES="1"))
    close(record(folder), whole)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_loss_of_one_process_ends_the_other_in_words_and_the_run_goes_on(tmp_path, cache, victim):
    folder = tmp_path / "run"
    process = launch(folder, 2, 1, cache)
    pids = ids(process)
    wait_until(process, lambda: steps(folder) >= 3)
    os.kill(pids[victim], signal.SIGKILL)
    began = time.monotonic()
    out, _ = process.communicate(timeout=120)
    assert time.monotonic() - began < 60 and process.returncode == 128 + signal.SIGKILL
    said = [line for line in out.splitlines() if line.startswith(f"[{1 - victim}] error: ")]
    assert len(said) == 1 and f"process {victim}" in said[0] and "the same command" in said[0], out
    assert "resumed at step" in finish(launch(folder, 2, 1, cache))
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == list(range(7))


def test_a_mistake_in_one_process_ends_all_with_its_line(tmp_path, cache):
    """A reward that is broken on one machine: the steps before it are saved by all."""
    (tmp_path / "broken_here.py").write_text(
        "import os\n"
        "def score(prompts, completions):\n"
        "    if os.environ['JAXRL_TOK_PROCESS'] == '1':\n"
        "        raise FileNotFoundError('/data/answers')\n"
        "    return [0.5 for _ in completions]\n"
    )
    sets = ("reward.correct.function=broken_here:score",)
    out = finish(launch(tmp_path / "run", 2, 1, cache, *sets, PYTHONPATH=f"{tmp_path}:{Path.cwd()}"), 2)
    errors = sorted(line for line in out.splitlines() if "error: " in line)
    assert len(errors) == 2 and errors[0].startswith("[0] error: process 1: reward 'correct'"), out
    assert errors[1].startswith("[1] error: reward 'correct'") and "/data/answers" in errors[1]


def test_who_is_missing_is_said(tmp_path, cache):
    """Process 1 of 2, and nobody serves: an end within the time, with the address."""
    place = {"JAXRL_TOK_COORDINATOR": "localhost:9", "JAXRL_TOK_PROCESSES": "2", "JAXRL_TOK_PROCESS": "1"}
    process = start(tmp_path / "run", cache=cache, **place, JAXRL_TOK_JOIN_TIMEOUT="5")
    out, _ = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "error: process 1 of 2 could not join the others through the coordinator localhost:9 within 5 s" in out


def test_processes_with_different_runs_are_refused(tmp_path, cache):
    """The launcher starts one script twice; it gives each process another seed."""
    script = 'exec "$0" "$@" --set=run.seed=$JAXRL_TOK_PROCESS'
    launcher = (sys.executable, str(LAUNCHER), "-n", "2", "--devices", "1", "--", "bash", "-c", script)
    process = start(tmp_path / "run", *SETS, cache=cache, launcher=launcher)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 2 and "differ in run" in out
    assert not steps(tmp_path / "run")


def test_a_mesh_that_leaves_a_process_without_a_device_is_refused(tmp_path, cache):
    out = finish(launch(tmp_path / "run", 2, 1, cache, "mesh.preset=single"), 2)
    assert "error: mesh.preset = 'single': leaves processes without a device" in out
