from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers import budget, draw
from jaxrl_tok.samplers.budget import is_forced
from tests.oracles import samplers as oracle

THINK_END, STEPS, ROWS, VOCAB = 3, 14, 12, 9
LOGITS = np.random.default_rng(0).normal(size=(STEPS, ROWS, VOCAB)).astype(np.float32)
REMAINING = np.arange(ROWS) - 1  # of the first step: two rows have none left from the start


def thinks(row):
    return THINK_END not in row


@pytest.mark.parametrize(("tokens", "at"), [((THINK_END, 7, 1), None), ((THINK_END, 7, 1), 5), ((THINK_END,), 0)])
def test_oracle_over_whole_completions(tokens, at):
    method = jax.jit(partial(budget, tokens=tokens, at=at))
    forced, thinking = jnp.zeros(ROWS, jnp.int32), np.ones(ROWS, bool)
    drawn, marks = [], []
    for t in range(STEPS):
        arrays = jnp.asarray(REMAINING - t, jnp.int32), forced, jnp.asarray(thinking)
        now = is_forced(*arrays, tokens=tokens, at=at)
        token = np.argmax(method(jnp.asarray(LOGITS[t]), *arrays), axis=-1)
        forced = forced + now.astype(jnp.int32)
        thinking &= token != THINK_END
        drawn.append(token)
        marks.append(now)
    expected, expected_marks = oracle.budget(LOGITS, REMAINING, tokens, len(tokens) if at is None else at, thinks)
    np.testing.assert_array_equal(np.stack(marks, 1), expected_marks)
    np.testing.assert_array_equal(np.stack(drawn, 1), expected)
    # Rows that the budget ends, and rows that end their thinking themselves.
    assert 0 < expected_marks.any(1).sum() < ROWS


def test_the_sequence_fits_into_what_is_left():
    """From `remaining` = 3 on, one token of three a step, the last with `remaining` = 1."""
    tokens = (4, 5, 6)
    forced, seen = 0, []
    for remaining in (5, 4, 3, 2, 1):
        arrays = jnp.array([remaining]), jnp.array([forced]), jnp.array([forced == 0])
        seen.append(int(jnp.argmax(budget(jnp.zeros((1, 8)), *arrays, tokens=tokens), axis=-1)[0]))
        forced += int(is_forced(*arrays, tokens=tokens)[0])
    assert seen == [0, 0, 4, 5, 6]
    assert forced == 3


def test_a_forced_token_is_drawn_with_certainty_whatever_its_logits():
    logits = jnp.array([[jnp.nan] * 5, [0.0, 0.0, -jnp.inf, 0.0, 0.0], [1.0] * 5])
    arrays = jnp.array([1, 0, 9]), jnp.zeros(3, jnp.int32), jnp.ones(3, bool)
    processed = budget(logits, *arrays, tokens=(2,))
    keys = jax.random.split(jax.random.key(0), 3)
    settings = jnp.array([1.0, 0.0, 1.0]), jnp.full(3, 4, jnp.int32), jnp.full(3, 0.9), jnp.full(3, 0.1)
    tokens, logprobs, thresholds = jax.jit(draw)(keys, processed, *settings)
    assert tokens[:2].tolist() == [2, 2] and logprobs[:2].tolist() == [0, 0]
    assert np.all(np.asarray(thresholds[:2]) == -np.inf)
    np.testing.assert_array_equal(processed[2], logits[2])


def test_a_row_that_is_not_active_starts_nothing_but_goes_on():
    arrays = jnp.zeros(4, jnp.int32), jnp.array([0, 1, 2, 3]), jnp.zeros(4, bool)
    assert is_forced(*arrays, tokens=(1, 2, 3)).tolist() == [False, True, True, False]
    arrays = jnp.zeros(2, jnp.int32), jnp.array([0, 3]), jnp.ones(2, bool)
    assert is_forced(*arrays, tokens=(1, 2, 3)).tolist() == [True, False]  # once a completion


@pytest.mark.parametrize(("tokens", "message"), [((), "no sequence to put in"), ((1, 5), "token 5 is not among")])
def test_sequences_that_cannot_be(tokens, message):
    with pytest.raises(ConfigError, match=message):
        budget(jnp.zeros((1, 5)), *jnp.zeros((2, 1), jnp.int32), jnp.ones(1, bool), tokens=tokens)
