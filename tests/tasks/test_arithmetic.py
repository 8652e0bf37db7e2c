import itertools
import re

import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.tasks.arithmetic import ALPHABET, Arithmetic, verify

OPTIONS = [
    dict(),
    dict(terms=2, max_operand=1),
    dict(terms=6, min_terms=2, max_operand=99, seed=3),
    dict(terms=5, max_operand=20, negative=True),
    dict(terms=3, max_operand=9, partial_sums=False),
]


def chain(question):
    """The numbers of a question with their signs, read by a grammar of its own."""
    assert re.fullmatch(r"\d+([+-]\d+)*=", question)
    return [int(number) for number in re.findall(r"[+-]?\d+", question)]


@pytest.mark.parametrize("options", OPTIONS)
def test_questions_are_right_and_within_their_options(options):
    task = Arithmetic(**options)
    counts = set()
    for i in range(300):
        example = task[i]
        numbers = chain(example.prompt)
        totals = list(itertools.accumulate(numbers))
        counts.add(len(numbers))
        assert all(1 <= abs(n) <= task.max_operand for n in numbers)
        assert task.negative or min(totals) >= 0
        assert example.columns == {"verifier": "arithmetic", "answer": str(totals[-1])}
        written = totals[1:] if task.partial_sums else totals[-1:]
        assert example.answer_text == ";".join(map(str, written))
        assert set(example.prompt + example.answer_text) <= set(ALPHABET)
        assert verify(example.answer_text, **example.columns) == 1.0
    assert counts == set(range(task.min_terms or task.terms, task.terms + 1))


def test_item_depends_on_seed_and_index_alone():
    task = Arithmetic(terms=6, max_operand=99)
    forwards = [task[i] for i in range(50)]
    assert [Arithmetic(terms=6, max_operand=99)[i] for i in reversed(range(50))] == forwards[::-1]
    assert len({e.prompt for e in forwards}) == 50
    other = Arithmetic(terms=6, max_operand=99, seed=1)
    assert not {other[i].prompt for i in range(50)} & {e.prompt for e in forwards}
    assert task[2**31 - 2].id == len(task) - 1
    # The same on every machine and under every version of Python and NumPy.
    assert [Arithmetic()[i].prompt for i in range(3)] == ["2-1-1+5=", "2-1-1+7=", "3-3+1-1="]


def enumerate_questions(fewest, most, m, negative):
    for count in range(fewest, most + 1):
        for first in range(1, m + 1):
            for rest in itertools.product([n for n in range(-m, m + 1) if n], repeat=count - 1):
                if negative or min(itertools.accumulate((first, *rest))) >= 0:
                    yield (first, *rest)


@pytest.mark.parametrize(("fewest", "most", "m"), [(2, 2, 1), (2, 2, 4), (3, 3, 3), (2, 4, 3), (4, 4, 5)])
@pytest.mark.parametrize("negative", [False, True])
def test_space_counts_what_enumeration_finds(fewest, most, m, negative):
    task = Arithmetic(terms=most, min_terms=fewest, max_operand=m, negative=negative)
    assert task.space() == sum(1 for _ in enumerate_questions(fewest, most, m, negative))


@pytest.mark.parametrize("negative", [False, True])
def test_every_question_of_a_small_space_is_drawn(negative):
    task = Arithmetic(terms=3, min_terms=2, max_operand=3, negative=negative)
    drawn = {tuple(chain(task[i].prompt)) for i in range(8000)}
    assert drawn == set(enumerate_questions(2, 3, 3, negative))


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ("17", 1),
        ("12;9;17", 1),
        ("1;2;17", 1),  # partial sums are not looked at
        (";17", 1),
        ("", 0),
        ("17;", 0),
        ("12;9;18", 0),
        ("17;9", 0),
        ("17 ", 0),
        (" 17", 0),
        ("017", 0),
        ("+17", 0),
        ("17.0", 0),
        ("1_7", 0),
        ("-17", 0),
        ("\uff11\uff17", 0),
        ("12 17", 0),
        ("17\n", 0),
        ("=17", 0),
    ],
)
def test_verify_reads_the_last_number_strictly(completion, score):
    assert verify(completion, "17", verifier="arithmetic") == score
    assert verify(completion, 17) == score


def test_verify_negative_and_zero():
    assert verify("3;-4", "-4") == 1.0
    assert verify("3;--4", "-4") == 0.0
    assert verify("0", "0") == 1.0
    assert verify("-0", "0") == 0.0
    # A gold answer that is no number cannot be earned by repeating it.
    assert verify("nan", "nan") == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(terms=1), "terms = 1, expected 2 to 32"),
        (dict(terms=3, min_terms=4), "min_terms = 4, expected 2 to 3"),
        (dict(max_operand=0), "max_operand = 0, expected 1 to 9999"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Arithmetic(**options)
