import numpy as np
import pytest

from jaxrl_tok.errors import DataError
from jaxrl_tok.io.data import Batch
from jaxrl_tok.io.tokenizer import characters
from jaxrl_tok.train.answers import answer_arrays

TOKENIZER = characters("0123;")


def questions(*answers):
    n = len(answers)
    return Batch(
        np.arange(n, dtype=np.int32), ["q"] * n, list(answers), {}, np.zeros((n, 1), np.int32), np.ones(n, np.int32)
    )


def test_answers_end_with_the_end_token():
    tokens, mask = answer_arrays(questions("1;2", "3"), TOKENIZER, 5)
    end = TOKENIZER.eos_ids[0]
    assert tokens.shape == (2, 1, 5)
    assert tokens[0, 0].tolist() == [*TOKENIZER.encode("1;2"), end, TOKENIZER.pad_id]
    assert mask[:, 0].tolist() == [[True] * 4 + [False], [True] * 2 + [False] * 3]


@pytest.mark.parametrize(("answer", "line"), [("1;2;3", "6 tokens"), (None, "no worked answer")])
def test_what_cannot_be_imitated_is_one_line(answer, line):
    with pytest.raises(DataError, match=line):
        answer_arrays(questions(answer), TOKENIZER, 5)
