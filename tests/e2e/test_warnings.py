"""Warnings through the command: each where it should be, once, and none in a healthy run."""

import dataclasses

import jax.numpy as jnp
import pytest

from jaxrl_tok.io.metrics import read_lines
from tests.e2e.command import built_once, train, write
from tests.e2e.judges import guilty

TRUNCATED = (
    "warning: every completion was cut at its limit, so none was finished: raise rollout.max_tokens (with "
    'rollout = "brpo" its budgets), or train on answers first (warmup.steps)'
)
NO_END = (
    "warning: no completion has produced an end token in 3 steps: check that the tokenizer's end token is the one the "
    "model was trained to stop with"
)
NO_VARIANCE = (
    "warning: every group has one value of the reward, so no advantage differs from zero: the task is too easy or too "
    "hard, or the reward is constant"
)
# One token out of two thousand, so that an end token is rare, and not drawn with this seed; rewards differ in groups.
ALPHABET = "0123456789+=" + "".join(map(chr, range(0x4E00, 0x4E00 + 2000)))
ONE_TOKEN = (f'tokenizer.alphabet="{ALPHABET}"', "rollout.max_tokens=1", "run.seed=6")


@pytest.fixture(scope="module", autouse=True)
def programs():
    with pytest.MonkeyPatch.context() as patch:
        built_once(patch)
        yield


@pytest.fixture
def warnings(tmp_path):
    """Trains with a judge of `judges.py`; returns the warnings and the lines of metrics."""

    def run(judge, *sets):
        ended = train(write(tmp_path / "folder", judge), *sets)
        assert (ended.code, ended.err) == (0, "")
        return ended.warnings, read_lines(tmp_path / "folder" / "runs" / "run" / "metrics.jsonl")[1:]

    return run


def test_a_healthy_run_warns_of_nothing(warnings):
    lines, steps = warnings("length", "run.steps=6")
    assert lines == [] and len(steps) == 6
    # It is healthy by some distance from each warning, but not because nothing could be said.
    assert all(0 < step["completions/clipped_ratio"] < 1 for step in steps)
    assert all(step["frac_reward_zero_std"] < 0.5 for step in steps)


@pytest.mark.slow
def test_all_completions_truncated_and_then_no_end_token_in_three_steps(warnings):
    lines, steps = warnings("last_character", *ONE_TOKEN, "run.steps=2")
    assert [step["completions/clipped_ratio"] for step in steps] == [1, 1]
    assert lines == [TRUNCATED]
    # The count goes on where the run goes on.
    lines, steps = warnings("last_character", *ONE_TOKEN, "run.steps=4")
    assert [step["completions/clipped_ratio"] for step in steps] == [1, 1, 1, 1]
    assert sorted(lines) == sorted([TRUNCATED, NO_END])


def test_all_groups_without_variance(warnings):
    lines, steps = warnings("constant")
    assert [step["frac_reward_zero_std"] for step in steps] == [1, 1, 1]
    assert lines == [NO_VARIANCE]


def test_some_groups_without_variance_are_nothing_to_warn_of(warnings):
    lines, steps = warnings("constant_for_some")
    assert all(0 < step["frac_reward_zero_std"] < 1 for step in steps)
    assert lines == []


def test_a_ratio_that_is_not_1_at_the_first_update(warnings, monkeypatch):
    from jaxrl_tok.train import build as module

    build = module.build

    def of_another_distribution(run, tokenizer, num_prompts, **rest):
        """The sampler states log-probs that are 0.05 nats below those of the trainer: exp(0.05) = 1.0513."""
        built = build(run, tokenizer, num_prompts, **rest)

        def rollout(*arguments):
            sampled = built.rollout(*arguments)
            logprobs = sampled.rollouts.sampler_logprobs - jnp.float32(0.05)
            rollouts = dataclasses.replace(sampled.rollouts, sampler_logprobs=logprobs)
            return dataclasses.replace(sampled, rollouts=rollouts)

        return dataclasses.replace(built, rollout=rollout)

    monkeypatch.setattr(module, "build", of_another_distribution)
    lines, _ = warnings("length")
    assert lines == [
        "warning: before the first update the ratio of trainer to sampler is off 1 by 0.0513: the two do not compute "
        "the same distribution (weights, temperature, filters, precision)"
    ]


@pytest.mark.slow
def test_later_updates_and_filters_are_no_reason_to_warn_of_the_ratio(warnings):
    sets = ("train.epochs=2", "optimizer.learning_rate=0.005", "rollout.temperature=0.9", "rollout.top_p=0.95")
    lines, steps = warnings("length", *sets)
    assert lines == []
    # The second update of a batch is far from its sampler, and some tokens are clipped; the first is not.
    assert max(step["clip_ratio/region_mean"] for step in steps) > 0.01
    for step in steps:
        assert abs(step["sampling/importance_sampling_ratio/max"] - 1) < 1e-4


def test_reward_timeouts_above_5_percent(warnings, tmp_path):
    lines, steps = warnings("faulty", 'reward.length.fault="hang"', "rewards.timeout=1.0", "run.steps=1")
    rows = read_lines(tmp_path / "folder" / "runs" / "run" / "completions.jsonl")
    late = [row for row in rows if guilty(row["prompt"], row["completion"])]
    assert 0.05 * 16 < len(late) < 5 and all(row["reward"] is None and row["advantage"] == 0 for row in late)
    counts = [steps[0][f"rewards/length/{outcome}"] for outcome in ("scored", "abstained", "timed_out", "crashed")]
    assert counts == [16 - len(late), 0, len(late), 0] and steps[0]["frac_trainable"] == 1 - len(late) / 16
    assert lines == [
        f"warning: reward 'length': {len(late)} of 16 samples ({len(late) / 16:.0%}) timed out and do not train; raise "
        "the timeout or make it faster",
        f"warning: reward 'length' (my_rewards:length): timed out after 1 s; {len(late)} of 16 samples, first prompt "
        "'5+6='",
    ]
