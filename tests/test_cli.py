"""The command as a user meets it: what it prints, its exit codes, and one line for a mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxrl_tok import cli
from jaxrl_tok.config.load import load_run
from jaxrl_tok.errors import NumericsError

ROOT = Path(__file__).parents[1]
QUICKSTART = str(ROOT / "configs" / "runs" / "quickstart.toml")


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs the command in this process; returns its exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["jaxrl-tok", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return ended.value.code or 0, printed.out, printed.err

    return run


def test_show_prints_a_run_file_and_the_sizes(command, tmp_path):
    code, out, err = command("show", QUICKSTART, "--set", "recipe=tempo", "--set", "run.steps=7")
    assert (code, err) == (0, "")
    copy = tmp_path / "copy.toml"
    copy.write_text(out)
    assert load_run(copy) == load_run(QUICKSTART, ["recipe=tempo", "run.steps=7"])
    assert "recipe tempo" in out and "passes: rollout yes" in out


def test_methods_prints_the_table(command):
    code, out, _ = command("methods")
    assert code == 0 and "  tempo\n" in out and "  ppo_clip\n" in out
    code, out, _ = command("methods", "--reads", "ref_logprobs")
    assert code == 0 and "  kl\n" in out and "  tempo\n" not in out


@pytest.mark.parametrize("name", ["show", "train", "eval"])
@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (["run.stepz=3"], "--set: run.stepz = 3: unknown key; did you mean 'steps'?"),
        (["run.steps=ten"], '--set: run.steps = "ten": expected an integer of at least 0'),
        (["recipe=tempoo"], "--set: recipe = \"tempoo\": no recipe of that name; did you mean 'tempo'?"),
        (["run.steps"], "--set run.steps: expected a dotted key and a value, as in run.steps=10"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(command, name, sets, line):
    code, out, err = command(name, QUICKSTART, *(part for item in sets for part in ("--set", item)))
    assert (code, out, err) == (2, "", f"error: {line}\n")


def test_two_mistakes_are_two_lines(command):
    code, _, err = command("show", QUICKSTART, "--set", "run.stepz=3", "--set", "mesh.fsdp=-2")
    assert code == 2 and len(err.splitlines()) == 2


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("clip.hihg=1.3", "recipe grpo: clip: asymmetric has no hyperparameter 'hihg'; did you mean 'high'?"),
        ("mesh.data=3", "does not fit 4 devices"),
        ("data.terms=99", "arithmetic: terms = 99, expected 2 to 32"),
        ("reward.correct.function=verifer", "did you mean 'verifier'?"),
    ],
)
def test_what_the_schema_cannot_know_is_one_line_too(command, setting, words):
    code, out, err = command("show", QUICKSTART, "--set", setting)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert err.startswith("error: ") and words in err


def test_a_run_file_that_is_not_there_names_its_neighbour(command, tmp_path):
    (tmp_path / "mine.toml").write_text("")
    code, _, err = command("show", str(tmp_path / "mime.toml"))
    assert code == 2 and err.endswith("mime.toml: no such file; did you mean 'mine.toml'?\n")


def test_an_array_that_no_method_reads(command):
    code, _, err = command("methods", "--reads", "mas")
    line = "error: --reads mas: no method reads an array of that name; did you mean 'mask'?\n"
    assert (code, err) == (2, line)


def test_bad_numbers_have_an_exit_code_of_their_own(command, monkeypatch):
    def explode():
        raise NumericsError("step 3: loss/policy is not finite")

    monkeypatch.setattr(cli, "app", explode)
    assert command("train") == (3, "", "error: step 3: loss/policy is not finite\n")


def test_a_mistake_in_a_process_of_its_own_shows_no_traceback(tmp_path):
    (tmp_path / "run.toml").write_text('model = "tiny"\nrecipe = "grpo"\n[run]\nstepz = 3\n')
    ended = subprocess.run(
        [sys.executable, "-m", "jaxrl_tok", "train", "run.toml"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == "error: run.toml: run.stepz = 3: unknown key; did you mean 'steps'?\n"
    assert not (tmp_path / "runs").exists()
