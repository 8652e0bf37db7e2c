import itertools
import math

import numpy as np
import pytest

from jaxrl_tok.train.eval_metrics import avg_at_k, eval_metrics, maj_at_k, normalise, pass_at_k


def test_pass_at_k_is_the_share_of_subsets_of_k_samples_with_a_right_one():
    rng = np.random.default_rng(0)
    for samples, k in itertools.product((1, 2, 5, 8), (1, 2, 5, 8)):
        if k > samples:
            continue
        correct = rng.random((6, samples)) < 0.3
        want = np.mean(
            [np.mean([any(row[list(s)]) for s in itertools.combinations(range(samples), k)]) for row in correct]
        )
        assert pass_at_k(correct, k) == pytest.approx(want, abs=1e-12)


def test_pass_at_k_by_hand():
    correct = np.array([[True, False, False, False], [False] * 4, [True, True, False, True]])
    assert pass_at_k(correct[:1], 2) == pytest.approx(1 - math.comb(3, 2) / math.comb(4, 2))  # 0.5
    assert pass_at_k(correct[1:2], 4) == 0.0
    assert pass_at_k(correct[2:], 2) == 1.0
    assert pass_at_k(correct, 1) == pytest.approx(avg_at_k(correct)) == pytest.approx(4 / 12)


def test_pass_at_k_with_many_samples_stays_finite():
    correct = np.zeros((1, 5000), bool)
    correct[0, :10] = True
    want = 1 - math.comb(4990, 1000) / math.comb(5000, 1000)
    assert pass_at_k(correct, 1000) == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("k", [0, 3])
def test_pass_at_k_refuses_a_k_that_the_samples_do_not_hold(k):
    with pytest.raises(ValueError, match=f"pass@{k} needs 1 <= k <= samples a question, which is 2"):
        pass_at_k(np.ones((1, 2), bool), k)


@pytest.mark.parametrize(
    ("answers", "correct", "want"),
    [
        (["7", "8", "8"], [True, False, False], 0.0),
        (["7", "8", "7"], [True, False, True], 1.0),
        (["8", "7", "7", "8"], [False, True, True, False], 0.0),  # a tie: the first to appear
        (["7", "8", "8", "7"], [True, False, False, True], 1.0),
        ([None, None, "7"], [False, False, True], 1.0),  # no answer has no vote
        (["", " ", "7"], [False, False, True], 1.0),
        ([None, None], [False, False], 0.0),
        (["Red  Fox", " red fox", "blue"], [True, True, False], 1.0),
    ],
)
def test_maj_at_k(answers, correct, want):
    assert maj_at_k([answers], np.array([correct])) == want


def test_maj_at_k_is_a_mean_over_questions():
    answers = [["1", "1"], ["2", "3"], ["4", "4"]]
    assert maj_at_k(answers, np.array([[True, True], [False, True], [True, True]])) == pytest.approx(2 / 3)


def test_normalise():
    assert normalise(" The\n Answer ") == "the answer"
    assert normalise(None) == ""


def test_eval_metrics_names_carry_the_number_of_samples():
    correct = np.array([[True, False], [False, False]])
    got = eval_metrics(np.array([True, False]), correct, [["1", "2"], ["3", "4"]])
    assert got == {"eval/greedy": 0.5, "eval/avg@2": 0.25, "eval/pass@2": 0.5, "eval/maj@2": 0.5}
