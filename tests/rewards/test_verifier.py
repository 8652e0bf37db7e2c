import pytest

from jaxrl_tok.errors import RewardError
from jaxrl_tok.rewards import verifier
from jaxrl_tok.rewards.pool import RewardPool, RewardSpec
from jaxrl_tok.tasks import VERIFIERS, Arithmetic


def verify(completion, answer="17", **columns):
    columns = {name: [value] for name, value in columns.items()}
    return verifier(["7+5-3+8="], [completion], verifier=["arithmetic"], answer=[answer], **columns)[0]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("12;9;17", 1),
        ("17", 1),
        ("99;17", 1),
        ("12;9;18", 0),
        ("17;18", 0),
        ("", 0),
        (";", 0),
        ("17;", 0),
        ("17 or 18", 0),
        ("017", 0),
        ("+17", 0),
        ("17.0", 0),
        ("16+1", 0),
        ("\uff11\uff17", 0),
        ("17\x00", 0),
    ],
)
def test_the_task_decides(completion, score):
    assert verify(completion) == score


def test_the_answer_may_be_a_number():
    assert verify("12;9;17", answer=17) == 1


def test_a_questions_own_columns_and_worked_answer_score_one():
    example = Arithmetic(terms=3)[5]
    columns = {name: [value] for name, value in example.columns.items()}
    assert verifier([example.prompt], [example.answer_text], **columns) == [1]
    assert verifier([example.prompt], [example.answer_text + "0"], **columns) == [0]


def test_a_sample_without_a_verifier_abstains():
    assert verifier(["?"] * 2, ["17", "17"], verifier=[None, "arithmetic"], answer=[None, "17"]) == [None, 1]


def test_columns_reach_the_task_by_sample_and_gaps_do_not(monkeypatch):
    seen = []
    monkeypatch.setitem(VERIFIERS, "spy", lambda *a, **k: seen.append((a, k)) or 0.5)
    columns = {"verifier": ["spy"] * 2, "answer": ["x", None], "dataset": ["lcm", None], "level": [1, 2]}
    assert verifier(["?"] * 2, ["a", "b"], **columns) == [0.5, 0.5]
    assert seen == [(("a", "x"), {"dataset": "lcm", "level": 1}), (("b", None), {"level": 2})]


def test_an_unknown_task_is_named():
    with pytest.raises(RewardError, match="no task has a verifier named 'arithmetics'; did you mean 'arithmetic'"):
        verifier(["?"], ["17"], verifier=["arithmetics"], answer=["17"])


def test_in_a_pool():
    columns = {"verifier": ["arithmetic", "arithmetic", None], "answer": ["17"] * 3, "id": [1, 2, 3]}
    with RewardPool([RewardSpec("correct", "verifier")], workers=1) as pool:
        batch = pool.score(["7+5-3+8="] * 3, ["12;9;17", "16", "17"], columns)
    assert batch.rewards.tolist() == [1, 0, 0] and batch.valid.tolist() == [True, True, False]
    assert batch.outcomes["correct"] == {"scored": 2, "abstained": 1, "timed_out": 0, "crashed": 0}
