"""The launcher on processes that last a moment; on runs, see tests/e2e/test_processes.py."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

LAUNCHER = Path(__file__).parents[3] / "tools" / "launch" / "local.py"


def start(program, *options, count=2):
    """Starts a program, whose `k` is the number of its process, `count` times."""
    source = f"import json, os, signal, sys, time\nk = int(os.environ['JAXRL_TOK_PROCESS'])\n{program}"
    command = [sys.executable, str(LAUNCHER), f"-n{count}", *options, "--", sys.executable, "-c", source]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, code):
    """Waits for the end; returns the lines of the processes, and the launcher's own but for its first."""
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, (process.returncode, out, err)
    first, *notes = err.splitlines()
    assert re.fullmatch(r"launch: process 0 has id \d+(, process \d has id \d+)*", first)
    return sorted(out.splitlines()), [note.removeprefix("launch: ") for note in notes]


def test_each_process_knows_its_place_and_its_devices():
    names = ("JAXRL_TOK_COORDINATOR", "JAXRL_TOK_PROCESSES", "JAX_PLATFORMS", "JAX_NUM_CPU_DEVICES")
    program = f"print(json.dumps([os.environ[name] for name in {names}]))"
    lines, notes = finish(start(program, "--devices=4", count=3), 0)
    assert not notes and [line[:4] for line in lines] == ["[0] ", "[1] ", "[2] "]
    (place,) = {line[4:] for line in lines}
    coordinator, *rest = json.loads(place)
    assert re.fullmatch(r"localhost:\d+", coordinator) and rest == ["3", "cpu", "4"]


def test_both_streams_come_line_by_line_with_a_number():
    lines, _ = finish(start("print('a'); sys.stderr.write('b\\nend')"), 0)
    assert lines == ["[0] a", "[0] b", "[0] end", "[1] a", "[1] b", "[1] end"]


def test_when_any_fails_the_others_get_time_and_then_end():
    """The last one fails, while those before it run on: one ends in time, one does not."""
    began = time.monotonic()
    program = "time.sleep((60, 0.3, 0)[k]); print('done'); sys.exit((0, 5, 3)[k])"
    lines, notes = finish(start(program, "--grace=1", count=3), 3)
    assert time.monotonic() - began < 20
    assert lines == ["[1] done", "[2] done"]
    assert notes == ["process 2 ended with code 3", "process 0 did not end within 1 s, killing"]


def test_a_process_that_is_killed_counts_as_a_shell_counts_it():
    lines, notes = finish(start("if k == 1: os.kill(os.getpid(), signal.SIGKILL)"), 128 + signal.SIGKILL)
    assert not lines and notes == ["process 1 was ended by SIGKILL"]


def test_a_signal_goes_on_to_all():
    handler = "signal.signal(signal.SIGTERM, lambda *_: (print('told', flush=True), sys.exit(143)))"
    process = start(f"{handler}\nprint('ready', flush=True)\ntime.sleep(60)")
    for _ in range(2):
        assert process.stdout.readline().endswith("ready\n")
    process.send_signal(signal.SIGTERM)
    lines, _ = finish(process, 143)
    assert lines == ["[0] told", "[1] told"]


def test_what_makes_no_sense_is_one_line():
    for options, line in (
        (("-n0", "--", "true"), "-n 0: expected at least 1"),
        (("-n1", "--", "no-such"), "no-such: no such command"),
    ):
        ended = subprocess.run([sys.executable, str(LAUNCHER), *options], capture_output=True, text=True, timeout=30)
        assert ended.returncode == 2 and ended.stderr.splitlines()[-1].endswith(line)
