import itertools
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import dr_grpo
from jaxrl_tok.scores import dars_extra_samples

METHOD = jax.jit(dars_extra_samples, static_argnames=("most", "schedule", "std"))


def groups(size):
    """Of every number of right answers that a group can have."""
    return (jnp.arange(size)[None] < jnp.arange(size + 1)[:, None]).astype(jnp.float32)


def test_hand_numbers():
    """One of 4 right: 4 * 3/8 = 1.5 of the 2 that a half solved group has, so two more, 6 * 3/8 >= 2; none: a = 1/8."""
    more = METHOD(groups(4), most=28)
    np.testing.assert_array_equal(more, [6, 2, 0, 0, 0])  # 2 / (7/32) = 9.14, less the 4 that there are
    np.testing.assert_array_equal(METHOD(groups(4), most=3), [3, 2, 0, 0, 0])
    np.testing.assert_array_equal(METHOD(groups(4), most=28, schedule="hardness_weighted"), [12, 4, 0, 0, 0])


def fewest(size, right, weighted):
    """Adds one completion after the other until the sum of |A| is there: exact."""
    accuracy = Fraction(right, size) or Fraction(1, 2 * size)
    if accuracy >= Fraction(1, 2):
        return 0
    each = 2 * accuracy * (1 - accuracy)
    peak = Fraction(size, 2) * (2 * (1 - accuracy) if weighted else 1)
    return next(more for more in itertools.count() if (size + more) * each >= peak)


@pytest.mark.parametrize("schedule", ["equal_treatment", "hardness_weighted"])
@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 10, 12, 16, 24, 30])
def test_the_fewest_that_give_the_sum_of_the_advantages(size, schedule):
    """The bound is often met exactly, where a rounding would be one too many."""
    weighted = schedule == "hardness_weighted"
    expected = [min(fewest(size, right, weighted), 100) for right in range(size + 1)]
    np.testing.assert_array_equal(METHOD(groups(size), most=100, schedule=schedule), expected)


def test_with_more_of_the_same_the_advantages_of_hard_prompts_sum_to_those_of_a_half_solved_one():
    rewards = groups(8)[1:4]
    for right, row, more in zip((1, 2, 3), rewards, METHOD(rewards, most=24).tolist(), strict=True):
        # A larger group with the same share right: 8 times as many completions of each kind.
        size = 8 * (8 + more)
        wider = (jnp.arange(size) < size * right // 8).astype(jnp.float32)[None]
        total = jnp.sum(jnp.abs(dr_grpo(wider, jnp.ones((1, size, 1), bool)))) / 8
        each = float(jnp.mean(jnp.abs(row - row.mean())))
        assert total + 1e-5 >= 4 and total < 4 + each


@pytest.mark.parametrize("size", [4, 8, 13])
def test_with_the_deviation_the_sum_is_that_of_standardised_rewards(size):
    expected = []
    for right in range(size + 1):
        accuracy = right / size or 0.5 / size
        each = 2 * np.sqrt(accuracy * (1 - accuracy))
        hard = (m for m in itertools.count() if (size + m) * each >= size - 1e-9)
        expected.append(next(hard) if accuracy < 0.5 else 0)
    np.testing.assert_array_equal(METHOD(groups(size), most=100, std=True), expected)


def test_easy_prompts_get_none_and_lost_rewards_do_not_count():
    rewards = jnp.array([[1, 0, 0.5, 0.5], [9, 9, -9, -9], [jnp.nan, 1, 0, 0], [jnp.nan] * 4, [-1, -1, 0, 0]])
    more = METHOD(rewards, jnp.isfinite(rewards), most=28)
    # Means of 1/2 and 0; of three, a third right: 1.5 / (4/9) = 3.4; no reward at all; below 0, which counts as 0.
    np.testing.assert_array_equal(more, [0, 6, 1, 0, 6])
