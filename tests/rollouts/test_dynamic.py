import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import ROLLOUTS, check
from jaxrl_tok.rollouts.dynamic import dynamic, next_round

REWARDS = np.array([[0, 1, 0], [0.9, 0.9, 0.9], [0, 0, 1], [0, 1, 1], [2, 3, 2]], np.float32)
VALID = np.array([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 1, 0], [1, 1, 0]], bool)


def test_groups_without_a_difference_give_way_to_new_prompts():
    """So do those whose only difference is a reward that was lost, and those with one reward or none."""
    start = next_round(0, 0 * REWARDS, np.zeros_like(VALID))
    assert start.wanted.all() and start.fresh.all()
    again = next_round(1, REWARDS, VALID)
    assert again.fresh.tolist() == [False, True, True, True, False] and not again.warning
    np.testing.assert_array_equal(again.wanted, np.repeat(again.fresh[:, None], 3, axis=1))


def test_it_ends_when_all_differ_or_after_so_many_rounds():
    full = next_round(1, REWARDS[[0, 0]], VALID[[0, 0]])
    assert not full.wanted.any() and not full.fresh.any() and not full.warning
    assert next_round(2, REWARDS, VALID, rounds=3).wanted.any()
    late = next_round(3, REWARDS, VALID, rounds=3)
    assert not late.wanted.any() and not late.fresh.any()
    assert "3 of 5 groups have equal rewards after 3 rounds of sampling" in late.warning
    assert not next_round(3, REWARDS[[0, 0]], VALID[[0, 0]], rounds=3).warning


def test_what_cannot_differ_and_a_batch_of_no_rounds_are_refused():
    assert ROLLOUTS["dynamic"] is dynamic
    check("dynamic", 2, 64, lambda text: np.zeros(0, bool), rounds=1)
    with pytest.raises(ConfigError, match="rounds = 0: expected at least 1"):
        check("dynamic", 2, 64, lambda text: np.zeros(0, bool), rounds=0)
    with pytest.raises(ConfigError, match=r"at least 2 completions; rollout.group = 1"):
        check("dynamic", 1, 64, lambda text: np.zeros(0, bool))
