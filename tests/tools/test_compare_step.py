"""Two small programs stand in for the two trainers; everything else is the tool itself."""

import json
import shlex
import subprocess
import sys

import pytest

from tools import compare_step

# Appends one line to the shared journal, so that the order of the runs can be seen, then reports its numbers.
PROGRAM = """
import json, os, pathlib, sys, time
name, journal, out, steps, hold_mb, first = sys.argv[1:7]
caches = [os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["XDG_CACHE_HOME"]]
stale = sum(os.path.exists(c) and len(os.listdir(c)) for c in caches)
for c in caches:
    pathlib.Path(c, "entry").mkdir(parents=True)
hold = b"x" * (int(hold_mb) << 20)
with open(journal, "a+") as f:
    f.seek(0)
    mine = sum(json.loads(line)["name"] == name for line in f)
    f.write(json.dumps({"name": name, "stale": stale, "caches": caches}) + "\\n")
time.sleep(float(first))
if float(first):
    print("time process start -> first step done: 99.0s")
json.dump({"step_s_median": json.loads(steps)[mine], "rollout_s": 0.5, "note": "x"}, open(out, "w"))
"""


@pytest.fixture
def program(tmp_path):
    """Returns a function that gives the command line of a program which reports the given step times."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)

    def command(name, steps, hold_mb=0, first=0.0):
        python = shlex.join([sys.executable, "-S", str(script), name, str(tmp_path / "journal")])
        return f"{python} {{json}} {shlex.quote(json.dumps(steps))} {hold_mb} {first}"

    return command


def journal(tmp_path):
    return [json.loads(line) for line in (tmp_path / "journal").read_text().splitlines()]


def test_medians_ratios_order_and_caches(program, tmp_path):
    out = tmp_path / "out.json"
    ours = program("ours", [1.0, 9.0, 2.0], first=0.3)
    baseline = program("baseline", [6.0, 5.0, 50.0], hold_mb=100)
    arguments = ["--ours", ours, "--baseline", baseline, "--rounds", "3", "--json", str(out)]

    # In a process of its own: a child's peak memory counts from what its parent holds, and pytest holds much.
    tool = [sys.executable, "-S", compare_step.__file__, *arguments]
    printed = subprocess.run(tool, check=True, capture_output=True, text=True).stdout

    result = json.loads(out.read_text())
    assert result["medians"]["ours"]["step_s_median"] == 2.0
    assert result["medians"]["baseline"]["step_s_median"] == 6.0
    assert result["baseline_over_ours"]["step_s_median"] == 3.0
    assert result["baseline_over_ours"]["rollout_s"] == 1.0
    assert [run["step_s_median"] for run in result["runs"]["baseline"]] == [6.0, 5.0, 50.0]

    # The time is measured here: the 99 s that the program prints about itself are not believed.
    assert 0.3 <= result["medians"]["ours"]["start_to_first_step_s"] < 10
    assert "start_to_first_step_s" not in result["medians"]["baseline"]
    assert "start_to_first_step_s" not in result["baseline_over_ours"]

    memory = {name: numbers["peak_rss_gb"] for name, numbers in result["medians"].items()}
    assert 0.08 < memory["baseline"] - memory["ours"] < 0.12

    done = journal(tmp_path)
    assert [run["name"] for run in done] == ["ours", "baseline", "baseline", "ours", "ours", "baseline"]
    assert [run["stale"] for run in done] == [0] * 6
    assert len({cache for run in done for cache in run["caches"]}) == 12

    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines()}
    assert lines["step_s_median"] == ["s", "2.000", "6.000", "3.000", "0.333"]
    assert lines["start_to_first_step_s"][2:] == ["-", "-", "-"]
    assert lines["train_s"] == ["s", "-", "-", "-", "-"]


def test_a_number_that_only_some_rounds_report_is_left_out(program, tmp_path):
    result = compare_step.compare(
        {"ours": program("ours", [1.0, None]), "baseline": program("baseline", [2.0, 2.0])}, rounds=2
    )
    assert "step_s_median" not in result["medians"]["ours"]
    assert "step_s_median" not in result["baseline_over_ours"]
    assert result["medians"]["baseline"]["step_s_median"] == 2.0


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import sys; print('out of beans'); sys.exit(3)", ["exit code 3", "out of beans"]),
        ("print('fine')", ["no JSON from"]),
    ],
)
def test_a_program_that_fails_ends_the_comparison_with_its_own_words(script, says, program, capsys):
    broken = f"{shlex.quote(sys.executable)} -S -c {shlex.quote(script)} {{json}}"
    assert compare_step.main(["--ours", broken, "--baseline", program("baseline", [1.0])]) == 1
    printed = capsys.readouterr().err
    assert all(words in printed for words in says)


def test_a_command_without_a_place_for_the_file_is_refused(program, capsys):
    assert compare_step.main(["--ours", "true", "--baseline", program("baseline", [1.0])]) == 1
    assert "{json}" in capsys.readouterr().err
