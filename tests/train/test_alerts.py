import pytest

from jaxrl_tok.train.alerts import alerts

GOOD = {
    "completions/clipped_ratio": 0.1,
    "frac_reward_zero_std": 0.5,
    "sampling/importance_sampling_ratio/min": 0.9999,
    "sampling/importance_sampling_ratio/max": 1.0001,
}


def test_a_good_step_warns_of_nothing():
    assert alerts(GOOD, dtype="float32", steps_without_end=0) == {}


@pytest.mark.parametrize(
    ("changes", "without_end", "kind", "remedy"),
    [
        ({"completions/clipped_ratio": 1.0}, 1, "truncated", "rollout.max_tokens"),
        ({"frac_reward_zero_std": 1.0}, 0, "no variance", "too easy or too hard"),
        ({"sampling/importance_sampling_ratio/max": 1.3}, 0, "ratio", "0.3"),
        ({"sampling/importance_sampling_ratio/min": 0.5}, 0, "ratio", "0.5"),
        ({}, 3, "no end token", "3 steps"),
    ],
)
def test_what_goes_wrong_is_said_with_its_remedy(changes, without_end, kind, remedy):
    found = alerts(GOOD | changes, dtype="float32", steps_without_end=without_end)
    assert list(found) == [kind] and remedy in found[kind]


def test_bfloat16_may_be_further_off():
    metrics = GOOD | {"sampling/importance_sampling_ratio/max": 1.1}
    assert not alerts(metrics, dtype="bfloat16", steps_without_end=0)
    assert alerts(metrics, dtype="float32", steps_without_end=0)
