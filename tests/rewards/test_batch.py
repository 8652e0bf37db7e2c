import numpy as np

from jaxrl_tok.rewards.batch import RewardBatch, among, overlaid


def test_completions_that_do_not_exist_have_no_reward():
    scored = {"scored": 1, "abstained": 0, "timed_out": 0, "crashed": 1}
    batch = RewardBatch(
        rewards=np.array([0.5, 0.0], np.float32),
        valid=np.array([True, False]),
        parts=np.array([[0.5], [np.nan]], np.float32),
        outcomes={"mine": scored},
        sample_outcomes=["scored", "crashed"],
        errors=["mine: raised"],
    )
    whole = among(batch, np.array([False, True, False, True]))
    np.testing.assert_array_equal(whole.rewards, np.array([0, 0.5, 0, 0], np.float32))
    np.testing.assert_array_equal(whole.valid, [False, True, False, False])
    np.testing.assert_array_equal(whole.parts, np.array([[np.nan], [0.5], [np.nan], [np.nan]], np.float32))
    assert whole.sample_outcomes == ["absent", "scored", "absent", "crashed"]
    assert (whole.outcomes, whole.errors) == (batch.outcomes, batch.errors)
    np.testing.assert_array_equal(among(batch, np.array([True, True])).rewards, batch.rewards)


def one_of(reward, outcome, timed_out=0):
    counts = {"scored": 2 - timed_out, "abstained": 0, "timed_out": timed_out, "crashed": 0}
    rewards = np.array([reward, -reward], np.float32)
    return RewardBatch(rewards, rewards > 0, rewards[:, None], {"mine": counts}, [outcome] * 2, [f"mine: {outcome}"])


def test_later_rewards_lie_over_earlier_ones_and_all_outcomes_count():
    got = overlaid(one_of(1, "old"), one_of(-3, "new", timed_out=1), np.array([False, True]))
    np.testing.assert_array_equal(got.rewards, np.array([1, 3], np.float32))
    np.testing.assert_array_equal(got.valid, [True, True])
    np.testing.assert_array_equal(got.parts, np.array([[1], [3]], np.float32))
    assert got.sample_outcomes == ["old", "new"] and got.errors == ["mine: old", "mine: new"]
    assert got.outcomes == {"mine": {"scored": 3, "abstained": 0, "timed_out": 1, "crashed": 0}}
