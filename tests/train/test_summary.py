import numpy as np
import pytest

from jaxrl_tok.train.summary import reward_metrics, rollout_metrics


def test_rollout_metrics_by_hand():
    mask = np.arange(4) < np.array([[1, 4], [2, 3]])[..., None]
    got = rollout_metrics(mask, np.array([[False, True], [False, False]]))
    assert got == {
        "completions/mean_length": 2.5,
        "completions/min_length": 1.0,
        "completions/max_length": 4.0,
        "completions/clipped_ratio": 0.25,
    }


def test_reward_metrics_count_valid_samples_only():
    rewards = np.array([[1.0, 0.0, 9.0], [1.0, 1.0, 1.0]])
    valid = np.array([[True, True, False], [True, True, True]])
    parts = np.array([[[1.0], [0.0], [np.nan]], [[1.0], [1.0], [1.0]]])
    outcomes = {"right": {"scored": 5, "abstained": 0, "timed_out": 1, "crashed": 0}}
    got = reward_metrics(rewards, valid, parts, outcomes)
    assert got["reward"] == pytest.approx(0.8)
    assert got["reward_std"] == pytest.approx((np.std([1, 0], ddof=1) + 0) / 2)
    assert got["frac_reward_zero_std"] == 0.5
    assert got["rewards/right/mean"] == pytest.approx(0.8)
    assert got["rewards/right/timed_out"] == 1


def test_no_valid_sample_gives_numbers_all_the_same():
    got = reward_metrics(np.zeros((1, 2)), np.zeros((1, 2), bool), np.full((1, 2, 1), np.nan), {"r": {"crashed": 2}})
    assert all(np.isfinite(list(got.values())))
