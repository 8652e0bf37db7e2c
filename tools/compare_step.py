"""Times the training step of two programs in turn and says how ours compares with the baseline.

    python tools/compare_step.py --rounds 5 --baseline "python bench.py --json {json}" --json out.json

`--ours` is `tools/bench_step.py` under the same interpreter unless said otherwise. Each program writes
one JSON object to the file that takes the place of `{json}`; what is compared are the keys in `KEYS`, and
a program that does not report one has no number there. Peak memory is the operating system's count for
the program. The time to the first finished step is taken here, from the program's start, where the
program prints `time process start -> first step done`; one without that line may report
`start_to_first_step_s`. Every run has compilation caches of its own that start empty.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FIRST_STEP_LINE = "time process start -> first step done"
KEYS = {
    "step_s_median": "s",
    "step_s_first": "s",
    "rollout_s": "s",
    "ref_s": "s",
    "train_s": "s",
    "start_to_first_step_s": "s",
    "peak_rss_gb": "GiB",
}


class RunFailed(Exception):
    """A program ended with an error, or wrote no usable JSON."""


def is_number(value: object) -> bool:
    """Says whether a value from JSON is a finite number: programs write NaN for what they could not time."""
    return isinstance(value, int | float) and math.isfinite(value)


def split_command(command: str, json_path: Path) -> list[str]:
    """Splits a command line as a shell would and puts the JSON file's path where `{json}` stands."""
    if "{json}" not in command:
        raise RunFailed(f"command has no {{json}} for the file it is to write: {command}")
    return [part.replace("{json}", str(json_path)) for part in shlex.split(command)]


def run_once(command: str, folder: Path) -> dict[str, float]:
    """Runs a program with empty compilation caches in `folder`; returns its numbers as `KEYS` names them."""
    json_path, log_path = folder / "result.json", folder / "log.txt"
    caches = {"JAX_COMPILATION_CACHE_DIR": str(folder / "jax"), "XDG_CACHE_HOME": str(folder / "xdg")}
    words = split_command(command, json_path)
    first_step_s = None
    with log_path.open("w") as log:
        start = time.perf_counter()
        with subprocess.Popen(
            words,
            env={**os.environ, **caches, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as program:
            assert program.stdout is not None
            for line in program.stdout:
                if first_step_s is None and line.startswith(FIRST_STEP_LINE):
                    first_step_s = time.perf_counter() - start
                log.write(line)
            # wait4, not wait: it hands over the resources of this one child.
            _, status, usage = os.wait4(program.pid, 0)
            program.returncode = os.waitstatus_to_exitcode(status)
    if program.returncode != 0:
        tail = log_path.read_text().splitlines()[-5:]
        raise RunFailed("\n".join([f"exit code {program.returncode}: {shlex.join(words)}", *tail]))
    try:
        reported = json.loads(json_path.read_text())
    except (OSError, ValueError) as error:
        raise RunFailed(f"no JSON from {shlex.join(words)}: {error}") from error
    numbers = {key: reported[key] for key in KEYS if is_number(reported.get(key))}
    if first_step_s is not None:
        numbers["start_to_first_step_s"] = first_step_s
    # Linux counts in KiB, macOS in bytes. Linux never counts less than this process held when it started it.
    numbers["peak_rss_gb"] = usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    return numbers


def medians_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Returns the median of each number that every run has."""
    shared = [key for key in KEYS if all(key in run for run in runs)]
    return {key: statistics.median(run[key] for run in runs) for key in shared}


def compare(commands: dict[str, str], rounds: int) -> dict[str, dict]:
    """Runs the programs in turn, `rounds` times, and returns every run, the medians, and baseline over ours.

    Who goes first changes from round to round, so that neither always gets the warmer or the busier machine.
    """
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    for index in range(rounds):
        names = list(commands) if index % 2 == 0 else list(reversed(commands))
        for name in names:
            with tempfile.TemporaryDirectory(prefix="compare_step_") as folder:
                runs[name].append(run_once(commands[name], Path(folder)))
            step = runs[name][-1].get("step_s_median", float("nan"))
            print(f"round {index + 1}/{rounds} {name}: step {step:.3f} s", file=sys.stderr, flush=True)
    medians = {name: medians_of(done) for name, done in runs.items()}
    ours, baseline = medians["ours"], medians["baseline"]
    ratios = {key: baseline[key] / value for key, value in ours.items() if key in baseline and value > 0}
    return {"commands": commands, "runs": runs, "medians": medians, "baseline_over_ours": ratios}


def table(result: dict[str, dict]) -> str:
    """Returns the medians and their ratio as text, one line a key."""
    medians, ratios = result["medians"], result["baseline_over_ours"]

    def cell(numbers: dict[str, float], key: str) -> str:
        return f"{numbers[key]:10.3f}" if key in numbers else f"{'-':>10}"

    lines = [f"{'median':<24}{'':<5}{'ours':>10}{'baseline':>10}{'base/ours':>10}{'ours/base':>10}"]
    for key, unit in KEYS.items():
        inverse = {key: 1 / ratios[key]} if ratios.get(key) else {}
        cells = [cell(numbers, key) for numbers in (medians["ours"], medians["baseline"], ratios, inverse)]
        lines.append(f"{key:<24}{unit:<5}{''.join(cells)}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Parses the command line, runs both programs, prints the table and writes the JSON."""
    bench = Path(__file__).with_name("bench_step.py")
    ours = shlex.join([sys.executable, str(bench), "--json"]) + " {json}"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", default=ours, help="command line, with {json} for the file it is to write")
    parser.add_argument("--baseline", required=True, help="the same, of the program to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write every run, the medians and the ratios")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        result = compare({"ours": options.ours, "baseline": options.baseline}, options.rounds)
    except RunFailed as error:
        print(error, file=sys.stderr)
        return 1
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
