"""Bad input through the command: one clear line, an exit code, and nothing lost that was computed before."""

import contextlib
import resource
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl_tok.config import derived
from jaxrl_tok.io import manifest
from jaxrl_tok.io.metrics import read_lines
from jaxrl_tok.train import session
from tests.e2e.command import QUESTIONS, RUN, built_once, contents, train, train_apart, write
from tests.e2e.judges import guilty

REWARD = "reward 'length' (my_rewards:length): "


@pytest.fixture(scope="module", autouse=True)
def programs():
    with pytest.MonkeyPatch.context() as patch:
        built_once(patch)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run of three steps in it, not to be changed."""
    folder = write(tmp_path_factory.mktemp("trained"))
    assert train(folder).code == 0
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of it, to go wrong in."""
    return shutil.copytree(trained, tmp_path / "folder")


def lines(folder):
    """The metrics that may not differ between runs that compute the same."""
    rows = read_lines(folder / "runs" / "run" / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(("time/", "perf/", "rewards/"))} for row in rows]


def kept(folder):
    """All that a run has left, but for the config, which says how many steps are asked for now."""
    return {name: digest for name, digest in contents(folder / "runs").items() if name != "run/config.toml"}


def completions(folder):
    return read_lines(folder / "runs" / "run" / "completions.jsonl")


def sealed(folder):
    """Steps whose checkpoint is whole; fails if one of those on disk is not as it was sealed."""
    found = {
        int(path.name): path for path in (folder / "runs" / "run" / "checkpoints").glob("*") if path.name.isdecimal()
    }
    steps = sorted(step for step, path in found.items() if manifest.is_sealed(path))
    assert [manifest.damage(found[step]) for step in steps] == [None] * len(steps)
    return steps


# What is wrong before anything runs: each in a folder with a finished run, of which no byte may change.


@pytest.mark.parametrize(
    ("written", "instead", "line"),
    [
        ("group = 4", "grup = 4", "run.toml: rollout.grup = 4: unknown key; did you mean 'group'?"),
        ("group = 4", 'group = "4"', 'run.toml: rollout.group = "4": expected an integer of at least 1'),
        ("group = 4", "group = ", "run.toml:22: not TOML: Invalid value"),
        (
            "questions.jsonl",
            "question.jsonl",
            "data.paths: question.jsonl: no such file; did you mean 'questions.jsonl'?",
        ),
        (
            "max_prompt = 8",
            "max_prompt = 3",
            "questions.jsonl:1: the prompt has 4 tokens, more than rollout.max_prompt = 3; raise it, or set "
            "data.overlong = 'drop'",
        ),
        (
            "my_rewards:length",
            "my_reward:length",
            "reward 'length' (my_reward:length): no module 'my_reward' beside the run file or installed; did you mean "
            "'my_rewards'?",
        ),
        ("rewards:length", "rewards:len", "reward 'length' (my_rewards:len): my_rewards.py has no 'len'; did you mean"),
        ('"0123456789+="', '"0123456789+"', "questions.jsonl:1: character '=' (U+003D) of '1+2=' is not"),
    ],
    ids=["unknown key", "type", "toml", "data file", "long prompt", "reward module", "reward name", "alphabet"],
)
def test_a_mistake_in_the_run_file(folder, written, instead, line):
    assert RUN.count(written) == 1
    (folder / "run.toml").write_text(RUN.replace(written, instead))
    before = contents(folder / "runs")
    assert train(folder).error().startswith(line)
    assert contents(folder / "runs") == before


def test_a_run_file_that_is_not_there(folder):
    before = contents(folder / "runs")
    assert train(folder, file="runs.toml").error() == "runs.toml: no such file; did you mean 'run.toml'?"
    assert contents(folder / "runs") == before


@pytest.mark.parametrize(
    ("questions", "line"),
    [
        ("", "questions.jsonl: no rows"),
        ('{"prompt": "1+2="}\n\n{"prompt": "3+4="\n', "questions.jsonl:3: not JSON, Expecting ',' delimiter at column"),
        ('{"prompt": "1+2="}\n"3+4="\n', "questions.jsonl:2: expected a JSON object, found '\"3+4=\"'"),
        ('{"prompt": "1+2="}\n{"prompt": 3}\n', "questions.jsonl:2: 'prompt' is the number 3, expected a string"),
        (
            '{"prompt": "1+2="}\n{"question": "1"}\n',
            "questions.jsonl:2: no column 'prompt' (data.prompt_column); known: question",
        ),
        ('{"prompt": "1+2="}\n{"prompt": "123456789"}\n', "questions.jsonl:2: the prompt has 9 tokens, more than"),
    ],
    ids=["empty", "not JSON", "not an object", "type", "column", "long prompt"],
)
def test_a_mistake_in_the_data(folder, questions, line):
    (folder / "questions.jsonl").write_text(questions)
    before = contents(folder / "runs")
    assert train(folder).error().startswith(line)
    assert contents(folder / "runs") == before


def test_data_that_changed_since_the_run_began(folder):
    (folder / "questions.jsonl").write_text((folder / "questions.jsonl").read_text().replace("1+2=", "2+2="))
    before = contents(folder / "runs")
    assert "the data has changed since its position was saved: source was" in train(folder, "run.steps=4").error()
    assert contents(folder / "runs") == before


def test_a_column_that_no_row_has_is_missed_before_anything_is_computed(tmp_path):
    folder = write(tmp_path / "folder")
    (folder / "my_rewards.py").write_text("def length(completions, anwser):\n    return [1.0] * len(completions)\n")
    (folder / "questions.jsonl").write_text('{"prompt": "1+2=", "answer": "3"}\n')
    assert train(folder).error() == REWARD + "the data has no column 'anwser'; did you mean 'answer'?"
    assert not (folder / "runs" / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("place", ["file/run", "/proc/run"], ids=["under a file", "in a file system without folders"])
def test_a_run_folder_that_cannot_be_written(tmp_path, place):
    folder = write(tmp_path / "folder")
    (folder / "file").write_text("")
    line = train(folder, f"run.dir={place}").error()
    assert f"{place}/checkpoints: cannot write checkpoints here: " in line


# Rewards.


@pytest.mark.parametrize(
    ("judge", "line"),
    [
        ("raises", "ValueError: bad luck ("),
        ("not_a_number", "returned nan, expected a finite number, a bool or None; it has answered for no sample yet"),
        ("text", "returned 'good', expected a finite number, a bool or None; it has answered for no sample yet"),
        ("too_few", "returned 15 values for 16 completions; it has answered for no sample yet"),
        ("one_number", "returned 1.0, expected a list of 16; it has answered for no sample yet"),
    ],
)
def test_a_reward_that_fails_on_everything_stops_the_run(folder, judge, line):
    write(folder, judge)
    before = kept(folder)
    assert train(folder, "run.steps=5").error().startswith(REWARD + line)
    assert kept(folder) == before


FAULTS = {
    "raise": "KeyError: ",
    "nan": "returned nan, expected a finite number, a bool or None; ",
    "string": "returned '1', expected a finite number, a bool or None; ",
    "os._exit": "its process exited with status 3; ",
}


@pytest.fixture(scope="module")
def abstained(tmp_path_factory):
    """A run whose reward has no opinion of the guilty samples."""
    folder = write(tmp_path_factory.mktemp("abstained"), "faulty")
    assert train(folder, "run.steps=2", "reward.length.fault=abstain").warnings == []
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_samples_whose_reward_fails_are_counted_and_do_not_train(abstained, tmp_path, fault):
    folder = write(tmp_path / "folder", "faulty")
    ended = train(folder, "run.steps=2", f'reward.length.fault="{fault}"')
    assert ended.code == 0
    (said,) = ended.warnings
    assert said.startswith(f"warning: {REWARD}{FAULTS[fault]}") and said.endswith("first prompt '5+6='")
    # Trained exactly as if there had been no opinion of these samples.
    assert lines(folder) == lines(abstained)
    rows = completions(folder)
    for line in read_lines(folder / "runs" / "run" / "metrics.jsonl")[1:]:
        step = [row for row in rows if row["step"] == line["step"]]
        failed = [row for row in step if guilty(row["prompt"], row["completion"])]
        counts = {name: line[f"rewards/length/{name}"] for name in ("scored", "abstained", "timed_out", "crashed")}
        assert counts == {"scored": 16 - len(failed), "abstained": 0, "timed_out": 0, "crashed": len(failed)}
        assert 0 < len(failed) < 5
        assert line["frac_trainable"] == 1 - len(failed) / 16
        assert all(row["reward"] is None and row["advantage"] == 0 for row in failed)
        scored = [row for row in step if row not in failed]
        assert all(row["reward"] == len(row["completion"]) for row in scored)
        np.testing.assert_allclose(line["reward"], np.mean([row["reward"] for row in scored]), rtol=1e-6)


def test_a_checkpoint_of_a_version_with_other_keys_is_read(folder, monkeypatch):
    """A key that was compared when it was written is free by now: to go on, and to sample."""
    monkeypatch.setattr(derived, "FREE", (*derived.FREE, "train.epochs"))
    assert train(folder, "run.steps=4").code == 0
    assert [row["step"] for row in lines(folder)] == [0, 1, 2, 3, 4]
    with contextlib.chdir(folder), jax.numpy_dtype_promotion("standard"):
        assert len(session.sample(Path("run.toml"), [], QUESTIONS[:1], 2, 1.0, 3)[0]) == 2


def test_a_batch_without_any_reward_is_passed_over(trained, tmp_path):
    folder = write(tmp_path / "folder", "one_short_once")
    ended = train(folder)
    assert ended.code == 0
    assert ended.warnings == [
        f"warning: {REWARD}returned 15 values for 16 completions; 16 of 16 samples, first prompt "
        f"{completions(folder)[16]['prompt']!r}"
    ]
    good, bad = lines(trained), lines(folder)
    assert bad[:2] == good[:2]
    assert (bad[2]["frac_trainable"], bad[2]["grad_norm"]) == (0, 0)
    assert bad[3]["frac_trainable"] == 1


def test_a_reward_that_breaks_for_good_stops_the_run_and_the_same_command_goes_on(tmp_path):
    whole, folder = write(tmp_path / "whole"), write(tmp_path / "folder", "works_twice")
    assert train(whole, "run.steps=7", "run.checkpoint_every=100").code == 0
    ended = train(folder, "run.steps=7", "run.checkpoint_every=100")
    assert ended.error().startswith(REWARD + "ConnectionError: the judge is down (")
    assert ended.error().endswith("; it failed on every sample of 3 batches in a row")
    assert "saved at step 4; the same command goes on from there" in ended.out
    assert lines(folder)[:3] == lines(whole)[:3] and sealed(folder) == [0, 4]
    kept = lines(folder)
    write(folder)
    ended = train(folder, "run.steps=7", "run.checkpoint_every=100")
    assert ended.code == 0 and "resumed at step 4" in ended.out
    assert lines(folder)[:5] == kept and [line["step"] for line in lines(folder)] == list(range(8))
    # The questions of the step that failed are asked again.
    assert [row["prompt"] for row in completions(folder)] == [row["prompt"] for row in completions(whole)]


# Numbers.


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_its_batch(folder):
    write(folder, "huge")
    before = kept(folder)
    line = train(folder, "run.steps=5").error(code=3)
    batch = folder / "runs" / "run" / "nonfinite_step_4.npz"
    assert line == (
        f"step 4: loss/policy is not finite; its batch is in {batch}; the update was not applied, and the last "
        "checkpoint is that of step 3"
    )
    with np.load(batch, allow_pickle=False) as arrays:
        (tokens,), (advantages,) = ([arrays[k] for k in arrays if name in k] for name in ("'tokens'", "'advantages'"))
    assert tokens.shape == (4, 4, 24) and not np.isfinite(advantages).all()
    after = kept(folder)
    assert after.pop(f"run/{batch.name}") and after == before


# A full disk, and processes: how they end, and that nothing is left of them.


def test_a_process_whose_reward_hangs_ends_within_seconds(folder):
    write(folder, "hangs")
    before = kept(folder)
    ended = train_apart(folder, "run.steps=5", "rewards.timeout=0.3", "rewards.workers=2")
    assert ended.error().startswith(REWARD + "timed out after 0.3 s; it has answered for no sample yet")
    assert kept(folder) == before


def test_a_disk_that_is_full_for_the_logs(folder):
    """The limit lets a checkpoint through, but no more completions."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    try:
        ended = train(folder, "run.steps=100", "run.checkpoint_every=100")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ended.error() == f"{folder}/runs/run/completions.jsonl: cannot write: File too large"
    steps = [line["step"] for line in lines(folder)]
    assert len(steps) > 4 and steps == list(range(len(steps))) and sealed(folder) == [2, 3]
    # With room again, the same command goes on; each step stands once.
    ended = train(folder, f"run.steps={steps[-1] + 2}", "run.checkpoint_every=100")
    assert ended.code == 0 and "resumed at step 3" in ended.out
    assert [line["step"] for line in lines(folder)] == list(range(steps[-1] + 3))
    assert [row["step"] for row in completions(folder)] == [1 + i // 16 for i in range(16 * (steps[-1] + 2))]


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_checkpoint(folder):
    """The limit lets the logs through, but no array."""
    ended = train_apart(folder, "run.steps=8", largest_file=12_000)
    checkpoint = folder / "runs" / "run" / "checkpoints" / "4"
    assert ended.error() == f"{checkpoint}: cannot save this checkpoint: File too large (step 3 is finished)"
    assert sealed(folder) == [2, 3] and lines(folder)[4]["step"] == 4
    ended = train(folder, "run.steps=8")
    assert ended.code == 0 and "resumed at step 3" in ended.out
    assert [line["step"] for line in lines(folder)] == list(range(9))
