import collections
import json
import subprocess
import sys

import pytest

from jaxrl_tok.errors import ConfigError, DataError
from jaxrl_tok.tasks import TASKS, VERIFIERS
from jaxrl_tok.tasks.gym import Gym, reasoning_gym, verify
from tests.helpers import need

SMALL = dict(min_terms=2, max_terms=3, min_digits=1, max_digits=2)


def test_tasks_import_without_jax_and_without_reasoning_gym():
    program = (
        "import sys; sys.modules['reasoning_gym'] = None; from jaxrl_tok.tasks import TASKS, VERIFIERS; "
        "print(sorted(TASKS), sorted(VERIFIERS), 'jax' in sys.modules, 'grain' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "['arithmetic', 'gym'] ['arithmetic', 'gym'] False False"


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(DataError, match=r"need reasoning_gym: run through `tools/run --extra gym"):
        Gym(tasks={"chain_sum": {}})


def test_questions_are_reasoning_gyms_and_score_in_another_process():
    need("reasoning_gym")
    gym = Gym(tasks={"chain_sum": {**SMALL, "prompt": "{expression}="}})
    examples = [gym[i] for i in range(20)]
    for example in examples:
        expression = example.prompt.removesuffix("=")
        assert set(expression) <= set("0123456789+- ")
        assert example.columns["answer"] == example.answer_text == str(eval(expression))
    assert len({e.prompt for e in examples}) > 15
    assert [gym[i] for i in reversed(range(20))] == examples[::-1]
    # Only text and numbers cross over to the process that scores.
    columns = json.dumps([e.columns for e in examples])
    program = (
        "import json, sys; from jaxrl_tok.tasks import VERIFIERS\n"
        "for c in json.load(sys.stdin): print(VERIFIERS[c['verifier']](' ' + c['answer'] + '\\n', **c))"
    )
    run = [sys.executable, "-W", "ignore", "-c", program]
    out = subprocess.run(run, input=columns, capture_output=True, text=True, check=True).stdout
    assert out.split() == ["1.0"] * 20


def test_scores_are_binary_where_reasoning_gym_pays_in_part():
    need("reasoning_gym")
    example = Gym(tasks={"lcm": {}})[0]
    columns, answer = example.columns, example.columns["answer"]
    entry = {"answer": answer, "metadata": json.loads(columns["metadata"])}
    partial = reasoning_gym().get_score_answer_fn("lcm")(f"the answer is {answer}", entry)
    assert 0 < partial < 1
    assert verify(f"the answer is {answer}", **columns) == 0.0
    assert verify(f"{answer}1", **columns) == 0.0
    assert verify("", **columns) == 0.0
    assert verify(f"  {answer} ", **columns) == 1.0
    countdown = Gym(tasks={"countdown": {}}, size=10)[0].columns
    assert verify("nonsense", **countdown) == 0.0


def test_answer_tag():
    need("reasoning_gym")
    example = Gym(tasks={"chain_sum": SMALL}, extract="answer_tag")[0]
    answer = example.columns["answer"]
    assert example.answer_text == f"<answer>{answer}</answer>"
    assert verify(f"so <answer>1x</answer> no, <answer> {answer} </answer>.", **example.columns) == 1.0
    assert verify(f"<answer>{answer}</answer><answer>1x</answer>", **example.columns) == 0.0
    assert verify(answer, **example.columns) == 0.0
    assert verify(f"<answer>{answer}", **example.columns) == 0.0


def test_mixture_keeps_its_weights_and_seeds_apart():
    need("reasoning_gym")
    tasks = {
        "sums": {"dataset": "chain_sum", "weight": 3, **SMALL},
        "products": {"min_digits": 1, "max_digits": 2},
    }
    gym = Gym(tasks=tasks)
    drawn = collections.Counter(gym[i].columns["dataset"] for i in range(2000))
    # Binomial: 1500 with standard deviation 19.4; the seed is fixed.
    assert abs(drawn["chain_sum"] - 1500) < 4 * 19.4
    assert drawn["products"] == 2000 - drawn["chain_sum"]
    # With one seed for all, item 0 of both data sets starts from the same operand.
    parts = [Gym(tasks={label: tasks[label]})[0] for label in tasks]
    sums, products = (json.loads(e.columns["metadata"])["expression"].split()[0] for e in parts)
    assert sums != products
    assert gym.fingerprint != Gym(tasks=tasks, seed=1).fingerprint
    assert "sums" in gym.where(0) or "products" in gym.where(0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(tasks={}), "tasks is empty"),
        (dict(tasks={"chain_summ": {}}), "no data set is named 'chain_summ'; did you mean 'chain_sum'"),
        (dict(tasks={"chain_sum": {"max_trms": 3}}), "no parameter 'max_trms'; did you mean 'max_terms'"),
        (dict(tasks={"chain_sum": {"min_terms": 9}}), "'chain_sum' refuses its parameters: max_terms"),
        (dict(tasks={"chain_sum": {"weight": 0}}), "weight = 0, expected a positive number"),
        (dict(tasks={"chain_sum": {"prompt": "{expresion}"}}), "'expresion'; did you mean 'expression'"),
        (dict(tasks={"chain_sum": {"prompt": "{"}}), "is no template"),
        (dict(tasks={"chain_sum": {"prompt": 3}}), "prompt = 3, expected a string"),
        (dict(tasks={"chain_sum": {}}, size=0), "size = 0"),
    ],
)
def test_mistakes_get_one_line(options, message):
    need("reasoning_gym")
    with pytest.raises(ConfigError, match=message) as caught:
        Gym(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
# reasoning-gym leaves the file with ARC's tasks open.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_data_set_that_json_would_break_is_refused():
    need("reasoning_gym")
    with pytest.raises(DataError, match="'arc_agi' cannot be scored from JSON metadata"):
        Gym(tasks={"arc_agi": {}}, size=10)


def test_registries_name_the_same_tasks():
    assert TASKS.keys() == VERIFIERS.keys()
