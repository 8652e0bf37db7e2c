import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.rollouts.similarity import common_subsequence, common_suffix, edit_distance


def contains(text, part):
    return any(text[i : i + len(part)] == part for i in range(len(text)))


def distance(a, b):
    """By the recursion, without the running minimum."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, j in itertools.product(range(len(a) + 1), range(len(b) + 1)):
        ways = [] if i or j else [0]
        ways += [table[i - 1, j] + 1] if i else []
        ways += [table[i, j - 1] + 1] if j else []
        ways += [table[i - 1, j - 1] + (a[i - 1] != b[j - 1])] if i and j else []
        table[i, j] = min(ways)
    return table[-1, -1]


def subsequence(a, b):
    """The longest of all the subsequences of a that are one of b."""
    for size in range(len(a), 0, -1):
        for chosen in itertools.combinations(a, size):
            rest = iter(b)
            if all(any(x == y for y in rest) for x in chosen):
                return size
    return 0


def suffix(a, b):
    return max([n for n in range(1, len(a) + 1) if contains(b, a[-n:]) or contains(a, b[-n:])], default=0)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_by_trying_everything(length):
    rng = np.random.default_rng(length)
    pairs = rng.integers(0, 3, (2, 60, length))
    pairs[1, :20] = np.roll(pairs[0, :20], 1, axis=1)  # what is only moved
    a, b = (jnp.asarray(x, jnp.int32) for x in pairs)
    for measure, oracle in ((edit_distance, distance), (common_subsequence, subsequence), (common_suffix, suffix)):
        expected = [oracle(list(x), list(y)) for x, y in zip(*pairs, strict=True)]
        assert length == 1 or len({*expected}) > 2
        np.testing.assert_array_equal(jax.jit(measure)(a, b), expected)


def test_by_hand():
    """One of six is changed; what is common begins or ends elsewhere."""
    a, b = jnp.array([[1, 2, 3, 4, 5, 6]], jnp.int32), jnp.array([[9, 2, 3, 4, 5, 6]], jnp.int32)
    assert [int(f(a, b)[0]) for f in (edit_distance, common_subsequence, common_suffix)] == [1, 5, 5]
    moved = jnp.array([[3, 4, 5, 6, 8, 8]], jnp.int32)
    assert [int(f(a, moved)[0]) for f in (edit_distance, common_subsequence, common_suffix)] == [4, 4, 4]
