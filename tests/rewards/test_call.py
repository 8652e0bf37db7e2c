import decimal

import numpy as np
import pytest

from jaxrl_tok.errors import RewardError
from jaxrl_tok.rewards import call

from . import functions


def bind(function, **options):
    return call.bind("reward 'r' (m:f)", function, options)


def test_signature_says_which_columns_are_taken_and_which_are_needed():
    bound = bind(functions.answer_length, scale=2.0)
    assert bound.arguments == ("prompts", "completions", "answer", "bonus")
    assert bound.required == ("answer",)
    assert not bound.takes_all
    assert bind(functions.count_columns).takes_all


def test_columns_that_are_not_taken_are_not_passed():
    bound = bind(functions.answer_length, scale=2.0)
    columns = {"answer": ["a", "bbb"], "source": ["x", "y"]}
    assert call.invoke(bound, ["?"] * 2, ["", ""], columns) == [2.0, 6.0]


def test_a_column_may_be_given_as_an_option_for_all_samples():
    bound = bind(functions.answer_length, bonus=10)
    assert call.invoke(bound, ["?"] * 2, ["", ""], {"answer": ["a", "bbb"]}) == [11.0, 13.0]
    assert "bonus" not in bound.arguments


def test_a_function_may_take_completions_only():
    assert call.invoke(bind(functions.constant), ["?"], ["x"], {"answer": ["a"]}) == [2.5]


def two_options(prompts, completions, *, low, high=1.0):
    return [low] * len(completions)


def positional(completions, /):
    return []


def without_completions(prompts):
    return []


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (functions.constant, {"valeu": 1}, "no option 'valeu'; did you mean 'value'"),
        (functions.numbers, {"value": 1}, "no option 'value'; it has none"),
        (functions.count_columns, {"scale": 1}, "no option 'scale'"),
        (functions.constant, {"completions": 1}, "no option 'completions'"),
        (two_options, {"high": 2.0}, "option 'low' is not set; .* before the \\*"),
        (positional, {}, "'completions' is positional-only"),
        (without_completions, {}, "takes no 'completions'"),
        ("text", {}, "is str, not a function"),
        (dict.fromkeys, {}, "has no signature|positional-only|takes no"),
    ],
)
def test_what_cannot_be_called_is_refused(function, options, message):
    with pytest.raises(RewardError, match=message):
        bind(function, **options)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("exactmatch", "neither a built-in reward nor module:function; did you mean 'exact_match'"),
        ("rewards:", "neither"),
        (":f", "neither"),
        ("a:b:c", "neither"),
        ("no_such_module:f", "no module 'no_such_module'"),
        ("tests.rewards.functoins:act", "no module 'tests.rewards.functoins'"),
        ("tests.rewards.functions:atc", "functions.py has no 'atc'; did you mean 'act'"),
        ("tests.rewards.functions:ACTIONS", "is dict, not a function"),
        ("math:pi", "is float, not a function"),
    ],
)
def test_names_that_lead_nowhere(name, message):
    with pytest.raises(RewardError, match=message) as caught:
        call.load("r", name, {})
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"reward 'r' ({name}): ")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = = 1", r"cannot import broken: SyntaxError: invalid syntax \(.*broken.py:1\)"),
        ("\nx = 1 / 0", r"cannot import broken: ZeroDivisionError: division by zero \(.*broken.py:2\)"),
        ("import nowhere_to_be_found", r"cannot import broken: ModuleNotFoundError: No module named 'now"),
        # Not sys.exit: a tracker that an earlier test imported puts its own function in that place.
        ("\nraise SystemExit(2)", r"cannot import broken: SystemExit: 2 \(.*broken.py:2\)"),
    ],
)
def test_a_module_that_cannot_be_imported(source, message, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RewardError, match=message):
        call.load("r", "broken:f", {})


def test_the_nearest_module_beside_the_run_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RewardError, match="did you mean 'my_rewards'"):
        call.load("r", "my_reward:f", {})


def test_every_kind_of_number_is_a_score():
    values = [1, 0.5, True, None, decimal.Decimal("1.5")]
    assert call.checked(values, 5) == ([1.0, 0.5, 1.0, None, 1.5], {})
    values = [np.float32(0.25), np.int64(3), np.bool_(False), np.array(2.0)]
    assert call.checked(values, 4) == ([0.25, 3.0, 0.0, 2.0], {})
    assert call.checked(np.array([1.0, 2.0]), 2) == ([1.0, 2.0], {})
    assert call.checked((1,), 1) == ([1.0], {})


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        np.float32("nan"),
        1e39,
        10**400,
        "1",
        b"1",
        [1.0],
        np.ones(1),
        1j,
        {},
        object(),
    ],
)
def test_what_is_no_score_spoils_its_own_sample_only(value):
    scores, wrong = call.checked([1.0, value, 0.0], 3)
    assert scores == [1.0, None, 0.0]
    assert list(wrong) == [1]
    assert "expected a finite number, a bool or None" in wrong[1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0], "returned 1 values for 2 completions"),
        ([1.0] * 3, "returned 3 values for 2 completions"),
        (None, "returned None, expected a list of 2"),
        (1.0, "returned 1.0, expected a list of 2"),
        ("10", "returned '10', expected a list of 2"),
        ({0: 1.0, 1: 2.0}, "returned a dict, expected a list of 2"),
        ((1.0 for _ in range(2)), "returned a generator, expected a list of 2"),
        (np.array(1.0), "expected a list of 2"),
    ],
)
def test_what_is_no_list_of_scores(values, message):
    with pytest.raises(ValueError, match=message):
        call.checked(values, 2)


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError


def test_an_exception_is_told_in_one_line_with_the_users_file_and_line():
    def described(function, *arguments):
        with pytest.raises(BaseException) as caught:
            call.invoke(bind(function), *arguments, {})
        return call.describe(caught.value, function)

    assert described(functions.always_raises, ["?"], ["x"]).startswith("ValueError: bad luck (")
    assert "functions.py:" in described(functions.always_raises, ["?"], ["x"])
    # The line of the user's file, not that of the library which it called.
    assert "functions.py:" in described(functions.nothing, ["?"], [1, "x"])
    assert call.describe(Unspeakable()) == "Unspeakable: its message raised RuntimeError"
    assert len(call.describe(ValueError("x" * 9999))) <= call.LONGEST
