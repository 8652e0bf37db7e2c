"""Chains of additions and subtractions, with or without written partial sums, and their exact verifier."""

import dataclasses
import hashlib
import re
from collections.abc import Iterator

import numpy as np

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.tasks.example import Example

ALPHABET = "0123456789+-=;"  # all that questions and answers are written with
MOST_TERMS = 32
MOST_OPERAND = 9999
_NUMBER = re.compile(r"0|-?[1-9][0-9]*")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Questions by index: item i depends on the options and on i alone, and is the same on every machine.

        prompt   7+5-3+8=
        worked   12;9;17      with `partial_sums`: the total after each operation
        worked   17           without

    A chain has `min_terms` to `terms` terms (`terms` unless given), each equally likely. Every operand lies
    between 1 and `max_operand`; each operation is a subtraction with probability 1/2. Without `negative`, no
    running total falls below 0: what is subtracted is drawn among what the total allows, and a total of 0 is
    always added to.

    Raises:
        ConfigError: a number is out of its range.
    """

    terms: int = 4
    min_terms: int | None = None
    max_operand: int = 9
    negative: bool = False
    partial_sums: bool = True
    seed: int = 0

    finite = False

    def __post_init__(self):
        _within("terms", self.terms, 2, MOST_TERMS)
        if self.min_terms is not None:
            _within("min_terms", self.min_terms, 2, self.terms)
        _within("max_operand", self.max_operand, 1, MOST_OPERAND)

    def __len__(self) -> int:
        """Returns the number of indices, the largest that an int32 holds; questions repeat long before."""
        return 2**31 - 1

    def __getitem__(self, index: int) -> Example:
        """Returns question number `index`."""
        draws = _draws(self.seed, index, 2 * self.terms)
        fewest = self.min_terms or self.terms
        count = fewest + next(draws) % (self.terms - fewest + 1)
        total = 1 + next(draws) % self.max_operand
        question, totals = [str(total)], []
        for _ in range(count - 1):
            draw = next(draws)
            subtract = bool(draw & 1) and (self.negative or total > 0)
            largest = min(self.max_operand, total) if subtract and not self.negative else self.max_operand
            operand = 1 + (draw >> 1) % largest
            question.append(f"-{operand}" if subtract else f"+{operand}")
            total += -operand if subtract else operand
            totals.append(str(total))
        worked = ";".join(totals) if self.partial_sums else totals[-1]
        columns = {"verifier": "arithmetic", "answer": totals[-1]}
        return Example(index, "".join(question) + "=", worked, columns)

    def space(self) -> int:
        """Returns how many different questions there are; exact below 2**53, to about 1e-10 beyond."""
        fewest = self.min_terms or self.terms
        m = self.max_operand
        if self.negative:
            return sum(m * (2 * m) ** (count - 1) for count in range(fewest, self.terms + 1))
        # chains[t]: how many chains of the present length end at the total t.
        chains = np.zeros(m * self.terms + 1)
        chains[1 : m + 1] = 1
        size = 0.0
        for count in range(1, self.terms + 1):
            if count > 1:
                chains = _window(chains, m) + _window(chains[::-1], m)[::-1]
            size += chains.sum() if count >= fewest else 0
        return int(size)

    def where(self, index: int) -> str:
        """Returns how errors name a question."""
        return f"arithmetic question {index}"

    @property
    def fingerprint(self) -> str:
        """What the questions depend on."""
        return repr(self)


def verify(completion: str, answer: str | int, **columns) -> float:
    """1.0 if the completion's last number is the answer, else 0.0.

    The last number is all that follows the last `;`, and must be written as Python writes an int: no spaces,
    leading zeros or plus sign, nothing after it. Partial sums are not looked at. Other columns are ignored.
    """
    last = extract(completion)
    return float(_NUMBER.fullmatch(last) is not None and last == str(answer))


def extract(completion: str) -> str:
    """Returns what the completion gives as its answer: all that follows its last `;`."""
    return completion.rpartition(";")[2]


def _within(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"arithmetic: {name} = {value}, expected {low} to {high}")


def _draws(seed: int, index: int, count: int) -> Iterator[int]:
    """Yields numbers of 64 bits; a remainder by less than 2**15 of them is uniform to within 2**-49."""
    data = hashlib.shake_256(f"arithmetic {seed} {index}".encode()).digest(8 * count)
    return (int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8))


def _window(values: np.ndarray, width: int) -> np.ndarray:
    """Returns for each place the sum of the `width` values before it."""
    before = np.concatenate([np.zeros(1), np.cumsum(values)])[:-1]
    return before - np.concatenate([np.zeros(width), before])[: len(before)]
