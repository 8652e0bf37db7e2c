import numpy as np

from jaxrl_tok.train.probes import _tokens, by_budget, means, of_greedy
from jaxrl_tok.types import Probes, Rollouts


def test_means_by_hand():
    """A lost reward counts nowhere; the prompt's value, probed for the first completion, is the whole group's."""
    cuts = np.array([[[0, 3], [0, -1], [2, 4]]], np.int32)
    rewards = np.array([[[[1, 0], [1, 1]], [[0, 0], [0, 0]], [[0, 0.5], [7, 7]]]], np.float32)
    valid = np.array([[[[1, 1], [0, 1]], [[0, 0], [0, 0]], [[1, 1], [0, 0]]]], bool)
    expected = [[[0.5, 1, np.nan], [0.5, np.nan, np.nan], [0.25, np.nan, np.nan]]]
    np.testing.assert_array_equal(means(rewards, valid, cuts), np.array(expected, np.float32))


def test_a_summary_without_a_reward_is_the_mean_of_those_like_it():
    """Of its own thinking and budget, else of the group's at the budget; 0 where nothing is known."""
    rewards = np.array([[[[1, 7], [7, 7], [7, 7]], [[0, 0.5], [1, 0], [7, 7]], [[1, 1], [1, 7], [7, 7]]]], np.float32)
    valid = np.array([[[[1, 0], [0, 0], [0, 0]], [[1, 1], [1, 1], [0, 0]], [[1, 1], [1, 0], [0, 0]]]], bool)
    third = np.float32(2 / 3)
    expected = [[[[1, 1], [third, third], [0, 0]], [[0, 0.5], [1, 0], [0, 0]], [[1, 1], [1, 1], [0, 0]]]]
    found = by_budget(rewards, valid, np.zeros((1, 3, 3), np.int32))
    np.testing.assert_array_equal(found, np.array(expected, np.float32))
    assert found.dtype == np.float32


def test_a_greedy_completion_without_a_reward_subtracts_nothing():
    rewards, valid = np.array([0.5, 7, 1], np.float32), np.array([True, False, True])
    found = of_greedy(rewards.reshape(3, 1, 1, 1), valid.reshape(3, 1, 1, 1), np.zeros((3, 1, 1), np.int32))
    np.testing.assert_array_equal(found, np.array([0.5, 0, 1], np.float32))


def test_texts_are_what_was_there_and_what_was_drawn_without_end_tokens():
    rollouts = Rollouts(np.arange(10, 18).reshape(2, 1, 4), *[None] * 5)
    cuts = np.array([[[0, 2]], [[3, -1]]], np.int32)
    tokens = np.array([[[[[5, 1, 9]], [[6, 7, 9]]]], [[[[8, 1, 9]], [[9, 9, 9]]]]], np.int32)
    lengths = np.array([[[[2], [2]]], [[[1], [0]]]], np.int32)
    probes = Probes(cuts, tokens, lengths)
    assert _tokens(rollouts, probes, slice(0, 2), (1,)) == [[5], [10, 11, 6, 7], [14, 15, 16, 8]]
    assert _tokens(rollouts, probes, slice(1, 2), (1,)) == [[14, 15, 16, 8]]
