"""Numbers that independent float64 references of the methods gave."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from tests.golden import vocabulary
from tests.golden.adapter import FUNCTIONS, run
from tests.golden.flat import parse

GOLDEN = {}
for file in sorted(Path(__file__).parent.glob("*.json")):
    GOLDEN |= json.loads(file.read_text())
CASES = [(name, i) for name, golden in GOLDEN.items() for i in range(len(golden["cases"]))]


# The first case of each function is quick. Whole distributions take long to compile, and the kernels' own tests hold
# the same numbers to their oracle.
QUICK = [(name, i) for name, i in CASES if i == 0 and name not in vocabulary.FUNCTIONS]
MARKED = [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES]


@pytest.mark.parametrize(("function", "i"), MARKED)
def test_case(function, i):
    case = GOLDEN[function]["cases"][i]
    check(run(function, case["inputs"]), case["expected"])


@pytest.mark.slow
@pytest.mark.parametrize(("function", "i"), CASES)
def test_case_in_float32(function, i):
    case = GOLDEN[function]["cases"][i]
    # Of the case's largest number: a gradient that is 0 stands beside others that are not.
    atol = 2e-5 * largest(case["expected"])
    check(run(function, case["inputs"], x64=False), case["expected"], atol=max(atol, 1e-12), rtol=0, loose={})


def largest(expected):
    """The largest finite number in a nested case."""
    if isinstance(expected, dict | list):
        return max((largest(x) for x in (expected.values() if isinstance(expected, dict) else expected)), default=0.0)
    number = abs(float(expected)) if isinstance(expected, int | float) else 0.0
    return number if np.isfinite(number) else 0.0


# The reference takes the root of 1 - sum sqrt(p q), which for equal distributions is that of a rounding of 1e-16.
LOOSE = {"hellinger": 2e-8}


def check(result, expected, atol=1e-12, rtol=1e-10, loose=LOOSE):
    """Compares leaf by leaf."""
    if isinstance(result, dict):
        assert result.keys() == expected.keys()
        for name in result:
            check(result[name], expected[name], loose.get(name, atol), rtol, loose)
    elif isinstance(result, list):
        for one, other in zip(result, expected, strict=True):
            check(one, other, atol, rtol, loose)
    else:
        assert result.shape == np.shape(expected)
        expected = np.asarray(parse(expected), np.float64)
        # float64 throughout: what is left is the order of a few dozen additions.
        np.testing.assert_allclose(result, expected, rtol=rtol, atol=atol)


def test_every_adapted_function_has_a_case():
    assert set(GOLDEN) == set(FUNCTIONS)


def test_unknown_function_names_the_known_ones():
    with pytest.raises(KeyError, match="tempo"):
        run("temp", {})


def test_results_are_float64_and_the_switch_is_local():
    result = run("grpo", {"reward": [1, None, 0], "mask": [[1], [1], [1]], "group": [5, 5, 5], "singleton": "zero"})
    assert result.dtype == np.float64
    assert result.tolist() == [
        [pytest.approx(2**-0.5, abs=2e-6)],
        [0.0],
        [pytest.approx(-(2**-0.5), abs=2e-6)],
    ]
    assert jax.numpy.ones(1).dtype == np.float32


def test_modes_that_the_cases_do_not_reach():
    x, mask = [[2.0, 4.0], [6.0, 0.0], [0.0, 0.0]], [[1, 1], [1, 0], [0, 0]]
    expected = {"grpo": (3 + 6) / 3, "dr_grpo": 12 / 6, "dapo": 12 / 3, "seq-mean-token-sum-norm": 12 / 2}
    for mode, value in expected.items():
        assert run("agg_loss", {"x": x, "mask": mask, "mode": mode}) == pytest.approx(value, rel=1e-12)
    assert run("kl_estimate", {"logp": [[-9.0]], "ref": [[-1.0]], "kind": "k3+"}) == 10.0


ROW = {"mask": [[1, 1, 1]]}
THREE = {"err": [[1], [2], [1]], "hid": [[1], [1], [1]], "resp": [0, 2, 2]}


@pytest.mark.parametrize(
    ("function", "inputs", "expected"),
    [
        # No epsilon in the lengths: 1/2 of each of two completions.
        ("agg_weights", {"mask": [[1, 0], [1, 1]], "mode": "seq-mean-token-mean"}, [[0.5, 0], [0.25, 0.25]]),
        # Bounds of each token: e^1/2 is cut at 1.28, and not at 2.
        (
            "ppo_clip",
            {"logp": [[0.5, 0.5]], "old": [[0, 0]], "adv": [[1, 1]], "mask": [[1, 1]], "hi": [[0.28, 1]], "lo": 0.2},
            [-(1.28 + np.exp(0.5)) / 2, [[0, -np.exp(0.5) / 2]]],
        ),
        # A fraction of 0 keeps the largest, where at least one is kept, or nothing.
        ("forking_mask_batch", ROW | {"entropy": [[1, 3, 2]], "rho": 0}, [[0, 1, 0]]),
        ("forking_mask_threshold", ROW | {"entropy": [[1, 3, 2]], "rho": 0}, [[0, 1, 0]]),
        ("topk_mask_per_sequence", ROW | {"score": [[1, 3, 2]], "frac": 0}, [[0, 0, 0]]),
        ("d3s_token_mask", ROW | {"adv": [[1, 1, 1]], "entropy": [[1, 3, 2]], "keep": 0}, [[0, 1, 0]]),
        ("stare_weights", ROW | {"logp": [[-1, -3, -4]], "adv": [[1, 1, -1]], "top": 0}, [[1, 1.1, 1]]),
        ("mis_mask", ROW | {"train_logp": [[-9, -1, -1]], "roll_logp": [[-1, -1, -9]], "kind": "token_k1", "lower": 0,
         "upper": 2}, [[0, 1, 1]]),
        # A response without a token.
        ("thr_scores", THREE | {"correct": [1, 0, 0]}, {"s": [1, 2, 1], "thr": [1, -2, -1]}),
        ("thr_reweight", {"resp_adv": [1, -1, 2], "thr": [0.5, -0.5], "resp": [0, 2], "p": 0.1}, [1.1, 1.8]),
        # A child that stands before its parent.
        (
            "spo_tree",
            {"parent": [-1, 2, 0, 0, 1, 1], "leaf_reward": [None, None, None, 0, 1, 1]},
            {"value": [0.5, 1, 1, 0, 1, 1], "advantage": [0, 0, 0.5, -0.5, 0, 0], "keep": [0, 0, 1, 1, 0, 0]},
        ),
        # With kappa = 1 the four largest of 13 are left, however they are rounded.
        (
            "minp_proxy_logp",
            {"logits": [[0, 0, 1, 0, 2, 0, 0, 2, 0, 1, 1, 2, 2]], "token": [7], "kappa": 1},
            [-np.log(4)],
        ),
    ],
)  # fmt: skip
def test_edges_that_the_cases_do_not_reach(function, inputs, expected):
    check(run(function, inputs), expected)


def test_the_largest_entropy_need_not_be_that_of_a_whole_number_of_tokens():
    """Twice the entropies with twice the largest are the same."""
    inputs = {"dev": [[0.1, 0.9, 0.4]], "mask": [[1, 1, 1]]}
    one, other = (
        run("dgpo_weights", inputs | {"ent": ent, "logV": x}) for ent, x in (([[1, 3, 2]], 3.9), ([[2, 6, 4]], 7.8))
    )
    np.testing.assert_allclose(one, other, rtol=1e-12)
    assert not np.allclose(one, run("dgpo_weights", inputs | {"ent": [[1, 3, 2]], "logV": 4.5}), rtol=1e-3)


@pytest.mark.parametrize("strength", ["b_pos", "b_neg", "pen"])
def test_ucas_has_its_three_strengths(strength):
    inputs = GOLDEN["ucas_advantage"]["cases"][0]["inputs"]
    defaults = {"b_pos": 0.25, "b_neg": 0.35, "pen": 0.05}
    np.testing.assert_array_equal(run("ucas_advantage", inputs | defaults), run("ucas_advantage", inputs))
    assert (run("ucas_advantage", inputs | {strength: 0.5}) != run("ucas_advantage", inputs)).any()


@pytest.mark.parametrize(
    ("value_fn", "reward_fn", "macro"),
    [("equal", "unit", [2, 3]), ("unit", "equal", [1.5, 3]), ("unit", "position", [4 / 3, 3]), ("unit", "sum", [3, 3])],
)
def test_macro_actions_pool_rewards_and_values_in_ways_of_their_own(value_fn, reward_fn, macro):
    inputs = {"rewards": [1, 2, 3], "values": [0, 0, 0], "bounds": [0, 2]}
    found = run("ma_gae", inputs | {"value_fn": value_fn, "reward_fn": reward_fn})
    np.testing.assert_allclose(found["macro_rewards"], macro, rtol=1e-12)


def test_formats_may_be_words():
    inputs = {"reward": [1, 0, 0], "mask": [[1]] * 3, "group": [0, 0, 0], "step": 0, "total": 10}
    words, numbers = (run("ada_grpo", inputs | {"fmt": fmt}) for fmt in (["COT", "CODE", "COT"], [1, 0, 1]))
    np.testing.assert_array_equal(words, numbers)


def test_what_is_masked_may_be_missing_in_whitening():
    inputs = {"old_logp": [[-1, -1, -1]], "mask": [[1, 1, 0]]}
    missing, given = (run("spo_whiten", inputs | {"adv": [[1, 3, x]]})[0][0, :2] for x in (None, 5))
    np.testing.assert_array_equal(missing, given)
    np.testing.assert_allclose(given, [-(0.5**0.5), 0.5**0.5], rtol=1e-6)
