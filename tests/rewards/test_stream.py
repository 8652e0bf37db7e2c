"""Completions that come a few at a time get the rewards that they get all at once."""

import time

import numpy as np
import pytest

from jaxrl_tok.errors import RewardError
from jaxrl_tok.rewards.pool import RewardPool, RewardSpec
from jaxrl_tok.rewards.stream import Stream

HERE = "tests.rewards.functions"
PROMPTS, COMPLETIONS = list("abcdefgh"), list("12345678")
DO = ["score", "raise", "score", "score", "abstain", "score", "hang", "score"]


@pytest.fixture(scope="module")
def pool():
    with RewardPool([RewardSpec("r", f"{HERE}:act")], workers=2, timeout=0.4, chunk=3) as pool:
        assert pool.score(["?"], ["1"], {"do": ["score"]}).rewards == [1.0]
        yield pool


@pytest.mark.parametrize("parts", [[[0, 1, 2, 3, 4, 5, 6, 7]], [[6, 1], [], [7, 0, 2, 3, 4], [5]]])
def test_the_rewards_are_those_of_all_at_once(pool, parts):
    expected = pool.score(PROMPTS, COMPLETIONS, {"do": DO})
    assert expected.outcomes["r"] == {"scored": 5, "abstained": 1, "timed_out": 1, "crashed": 1}
    stream = Stream(pool, PROMPTS, {"do": DO})
    for part in parts:
        stream.add(part, [COMPLETIONS[i] for i in part])
        time.sleep(0.02)
    found = stream.result()
    for name in ("rewards", "valid", "parts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (found.outcomes, found.sample_outcomes) == (expected.outcomes, expected.sample_outcomes)
    assert found.errors == expected.errors and found.warnings() == expected.warnings()


def test_adding_waits_for_no_reward(pool):
    stream = Stream(pool, PROMPTS, {"do": ["hang"] * 4 + ["score"] * 4})
    began = time.monotonic()
    for i in range(8):
        stream.add([i], [COMPLETIONS[i]])
    assert time.monotonic() - began < 0.4  # of which each that hangs takes a worker
    assert stream.result().outcomes["r"]["timed_out"] == 4


def test_what_is_scored_while_others_are_to_come_is_there_before_them(pool):
    stream = Stream(pool, PROMPTS, {"do": ["score"] * 8})
    stream.add([3, 5], ["4", "6"])
    end = time.monotonic() + 20
    while (stream._board.outcome == "scored").sum() != 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    rest = [0, 1, 2, 4, 6, 7]
    stream.add(rest, [COMPLETIONS[i] for i in rest])
    np.testing.assert_array_equal(stream.result().rewards, np.arange(1, 9))


def test_a_broken_function_is_told_with_the_result_and_the_pool_goes_on():
    with RewardPool([RewardSpec("r", f"{HERE}:act")], workers=1, timeout=5.0, chunk=1) as pool:
        stream = Stream(pool, PROMPTS, {"do": ["raise"] * 8})
        stream.add(range(8), COMPLETIONS)
        with pytest.raises(RewardError, match="has answered for no sample yet and failed on 8"):
            stream.result()
        assert pool.score(["?"], ["7"], {"do": ["score"]}).rewards == [7.0]
        with pytest.raises(RewardError, match="'do' has 1 values for 8 prompts"):
            Stream(pool, PROMPTS, {"do": ["score"]})


def test_the_first_to_come_may_all_fail():
    prompts = [str(i) for i in range(12)]
    do = {"do": ["raise"] * 8 + ["score"] * 4}
    with RewardPool([RewardSpec("r", f"{HERE}:act")], workers=1, timeout=20.0, chunk=4) as pool:
        stream = Stream(pool, prompts, do)
        stream.add(range(8), prompts[:8])
        end = time.monotonic() + 20
        while (stream._board.outcome == "crashed").sum() != 8:
            assert time.monotonic() < end
            time.sleep(0.01)
        stream.add(range(8, 12), prompts[8:])
        assert stream.result().outcomes["r"] == {"scored": 4, "abstained": 0, "timed_out": 0, "crashed": 8}


def test_what_is_dropped_ends_and_leaves_the_pool_as_it_was(pool):
    stream = Stream(pool, PROMPTS, {"do": ["hang"] * 8})
    stream.add([0], ["1"])
    stream.close()
    stream.close()
    assert not stream._thread.is_alive()
    assert pool.score(["?"], ["2"], {"do": ["score"]}).rewards == [2.0]
