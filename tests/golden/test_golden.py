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
