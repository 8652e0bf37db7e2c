import pytest

from jaxrl_tok.rewards import exact_match


@pytest.mark.parametrize(
    ("completion", "answer", "score"),
    [
        ("42", "42", 1),
        ("  42\n", "42", 1),
        ("New\n  York", "New York", 1),
        ("42", 42, 1),
        ("-7", -7, 1),
        ("", "", 1),
        ("43", "42", 0),
        ("", "42", 0),
        ("4 2", "42", 0),
        ("42.", "42", 0),
        ("42 42", "42", 0),
        ("the answer is 42", "42", 0),
        ("42\x00", "42", 0),
        ("\uff14\uff12", "42", 0),
        ("New york", "New York", 0),
        (".*", "42", 0),
        ("42", None, None),
    ],
)
def test_whole_completion(completion, answer, score):
    assert exact_match(["?"], [completion], [answer]) == [score]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("3 + 4 is 7 #### 7", 1),
        ("####7", 1),
        ("#### 6 no, #### 7", 1),
        ("#### 7 no, #### 6", 0),
        ("#### 7 #### ", 0),
        ("7", 0),
        ("", 0),
        ("#### 7 or 8", 0),
    ],
)
def test_only_what_follows_the_last_marker(completion, score):
    assert exact_match(["?"], [completion], ["7"], after="####") == [score]


def test_a_batch_is_scored_by_position():
    assert exact_match(["?"] * 3, ["1", "2", "3"], ["1", "3", "3"]) == [1, 0, 1]


def test_batches_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="shorter"):
        exact_match(["?"] * 2, ["1", "2"], ["1"])
