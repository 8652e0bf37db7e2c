"""One whole run in this process, and what it leaves behind."""

import re

import numpy as np
import pytest

from jaxrl_tok.config.load import load_run
from jaxrl_tok.errors import CheckpointError, ConfigError, NumericsError
from jaxrl_tok.io.metric_names import undocumented
from jaxrl_tok.io.metrics import read_lines
from jaxrl_tok.train import session
from tests.train.processes import RUN

# optax and the loop's host code are not written for strict promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import jax

    path = tmp_path_factory.mktemp("run") / "small"
    with jax.numpy_dtype_promotion("standard"):
        assert session.train(RUN, [f"run.dir={path}"]) == 0
    return path


def test_each_step_has_one_line_and_the_warm_start_is_step_0(folder):
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(7))
    assert [line["step"] for line in read_lines(folder / "warmup" / "metrics.jsonl")] == [1, 2, 3, 4]
    assert {"eval/greedy", "eval/avg@2", "eval/pass@2", "eval/maj@2"} <= set(lines[0])
    assert [line["step"] for line in lines if "eval/greedy" in line] == [0, 3, 6]


def test_every_metric_is_in_the_list_of_names(folder):
    names = {name for line in read_lines(folder / "metrics.jsonl") for name in line} - {"step"}
    assert not undocumented(names)
    assert {"reward", "entropy", "kl", "loss", "loss/policy", "loss/kl", "grad_norm", "frac_trainable"} <= names


def test_sampler_and_trainer_agree_in_every_step(folder):
    for line in read_lines(folder / "metrics.jsonl")[1:]:
        assert abs(line["sampling/importance_sampling_ratio/max"] - 1) < 1e-4
        assert abs(line["sampling/importance_sampling_ratio/min"] - 1) < 1e-4


def test_rewards_are_the_weighted_sum_of_their_parts(folder):
    rows = read_lines(folder / "completions.jsonl")
    assert len(rows) == 6 * 16
    for row in rows:
        expected = row["parts"]["correct"] + 0.1 * row["parts"]["form"]
        np.testing.assert_allclose(row["reward"], expected, rtol=1e-6)


@pytest.mark.slow
def test_a_run_ends_with_the_step_that_samples_the_last_of_its_tokens(folder, tmp_path, capsys):
    whole = [line["num_sampled_tokens"] for line in read_lines(folder / "metrics.jsonl")[1:]]
    lengths = [line["completions/mean_length"] for line in read_lines(folder / "metrics.jsonl")[1:]]
    np.testing.assert_allclose(np.diff([0, *whole]), 16 * np.array(lengths), rtol=1e-6)
    sets = [f"run.dir={tmp_path}", f"run.max_sampled_tokens={whole[3]}"]
    assert session.train(RUN, sets) == 0
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [line["num_sampled_tokens"] for line in lines[1:]] == whole[:4]
    assert "eval/greedy" in lines[4] and (tmp_path / "checkpoints" / "8").is_dir()  # 4 steps of the warm-up, 4 of these
    # The same command once more has nothing to do.
    assert session.train(RUN, sets) == 0
    assert len(read_lines(tmp_path / "metrics.jsonl")) == 5 and "finished" in capsys.readouterr().out


def test_the_resolved_config_loads_to_the_same_run(folder):
    assert load_run(folder / "config.toml") == load_run(RUN, [f"run.dir={folder}"])


def test_a_finished_run_has_nothing_left_to_do(folder):
    before = (folder / "metrics.jsonl").read_bytes()
    assert session.train(RUN, [f"run.dir={folder}"]) == 0
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_another_config_is_refused_with_the_keys_that_differ(folder):
    with pytest.raises(CheckpointError) as error:
        session.train(RUN, [f"run.dir={folder}", "optimizer.learning_rate=0.5"])
    assert "optimizer.learning_rate" in str(error.value) and "\n" not in str(error.value)


def test_eval_gives_what_training_measured(folder):
    lines = read_lines(folder / "metrics.jsonl")
    assert session.evaluate(RUN, [f"run.dir={folder}"], 6) == {
        k: v for k, v in lines[6].items() if k.startswith("eval/")
    }


def test_sample_completes_prompts(folder):
    got = session.sample(RUN, [f"run.dir={folder}"], ["1+2+3=", "9-1+1="], 3, 1.0, None)
    assert [len(row) for row in got] == [3, 3]
    assert session.sample(RUN, [f"run.dir={folder}"], ["1+2+3=", "9-1+1="], 3, 1.0, None) == got


def test_a_loss_that_is_not_finite_names_step_and_term_and_keeps_the_batch(tmp_path):
    with pytest.raises(NumericsError) as error:
        session.train(RUN, [f"run.dir={tmp_path}", "warmup.learning_rate=1e30"])
    assert re.match(r"warm-up step \d: (loss/\w+|the gradient) is not finite; its batch is in", str(error.value))
    (path,) = tmp_path.glob("nonfinite*.npz")
    assert any("tokens" in name for name in np.load(path, allow_pickle=False).files)


def test_rollouts_without_a_reward_are_refused(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        RUN.read_text()
        .replace('[reward.correct]\nfunction = "verifier"\n', "")
        .replace('[reward.form]\nfunction = "format"\npattern = "[0-9;-]+"\nweight = 0.1\n', "")
    )
    with pytest.raises(ConfigError, match=r"expected at least one \[reward.NAME\]"):
        session.train(file, [f"run.dir={tmp_path / 'x'}"])
