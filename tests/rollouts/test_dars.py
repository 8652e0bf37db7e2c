import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import ROLLOUTS, check
from jaxrl_tok.rollouts.dars import dars, next_round

REWARDS = np.zeros((4, 10), np.float32)
REWARDS[0, :4] = [0, 0, 0, 1]  # two more: see dars_extra_samples
REWARDS[1, :4] = [1, 1, 0, 0]
REWARDS[3, :4] = [0, 0, 1, 0]
VALID = np.broadcast_to(np.arange(10) < 4, (4, 10)).copy()
VALID[3] = False  # no reward of it came


def test_the_first_of_all_then_more_of_the_hard_ones_then_none():
    start = next_round(0, 0 * REWARDS, np.zeros_like(VALID), first=4)
    np.testing.assert_array_equal(start.wanted, np.broadcast_to(np.arange(10) < 4, (4, 10)))
    assert start.fresh.all() and start.wanted.shape == (4, 10)
    more = next_round(1, REWARDS, VALID, first=4)
    assert [np.flatnonzero(row).tolist() for row in more.wanted] == [[4, 5], [], [4, 5, 6, 7, 8, 9], []]
    assert not more.fresh.any()
    last = next_round(2, REWARDS, VALID, first=4)
    assert not last.wanted.any() and not last.fresh.any() and not last.warning


def test_options_reach_the_schedule_and_the_group_bounds_it():
    weighted = next_round(1, REWARDS, VALID, first=4, schedule="hardness_weighted")
    assert weighted.wanted.sum(1).tolist() == [4, 0, 6, 0]
    # 4 / (2 sqrt(3/16)) = 4.6, 4 / (2 sqrt(7/64)) = 6.05
    assert next_round(1, REWARDS, VALID, first=4, std=True).wanted.sum(1).tolist() == [1, 0, 3, 0]
    assert next_round(1, REWARDS[:, :5], VALID[:, :5], first=4).wanted.sum(1).tolist() == [1, 0, 1, 0]


def test_a_group_without_a_place_for_more_is_refused():
    assert ROLLOUTS["dars"] is dars
    check("dars", 9, 64, lambda text: np.zeros(0, bool), first=8, schedule="hardness_weighted", std=True)
    for group, first in ((8, 8), (8, 0)):
        with pytest.raises(ConfigError, match=f"first = {first}: expected 1 to 7, less than rollout.group = 8"):
            check("dars", group, 64, lambda text: np.zeros(0, bool), first=first)
