import pytest

from jaxrl_tok.rewards import format


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("<think>a</think><answer>b</answer>", 1),
        ("<think>two\nlines</think>\n\n<answer>b</answer>\n", 1),
        ("<think></think><answer></answer>", 1),
        ("<think>1 < 2 > 0</think><answer><b></answer>", 1),
        ("", 0),
        ("b", 0),
        ("<answer>b</answer><think>a</think>", 0),
        ("<think>a<answer>b</think></answer>", 0),
        ("<think>a</think> so <answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer> and more", 0),
        ("well <think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b", 0),
        ("<think>a</think></think><answer>b</answer>", 0),
        ("<think><think>a</think><answer>b</answer>", 0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0),
        ("<think>a</think><answer>b</answer>" * 2, 0),
        ("<THINK>a</THINK><answer>b</answer>", 0),
    ],
)
def test_default_form_has_each_tag_once_and_in_order(completion, score):
    assert format(["?"], [completion]) == [score]


def test_default_form_takes_linear_time_on_repeated_tags():
    assert format(["?"], ["<think>" * 20000]) == [0]


def test_pattern_must_match_all_of_the_completion():
    pattern = [r"\d+", r"\d+", r"\d+", ".+", None]
    assert format(["?"] * 5, ["12", "12a", "", "a\nb", "c"], pattern) == [1, 0, 0, 1, None]
