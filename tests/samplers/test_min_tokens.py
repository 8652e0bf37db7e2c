import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers import min_tokens
from tests.oracles import samplers as oracle

LOGITS = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def test_oracle():
    """The first two rows have too few tokens, the third has just enough, the fourth asks for none."""
    positions, minimum = jnp.array([0, 2, 3, 0]), jnp.array([1, 3, 3, 0])
    got = min_tokens(jnp.asarray(LOGITS), positions, minimum, end_ids=(5, 2))
    np.testing.assert_array_equal(got, oracle.banned(LOGITS, (2, 5), [True, True, False, False]))


def test_a_greedy_completion_ends_at_its_minimum():
    """The end token is always the likeliest, so the completion has `minimum` other tokens and then ends."""
    logits = jnp.array([[0.0, 1.0, 9.0]])
    drawn = [
        int(jnp.argmax(min_tokens(logits, jnp.array([t]), jnp.array([3]), end_ids=(2,)), axis=-1)[0]) for t in range(5)
    ]
    assert drawn == [1, 1, 1, 2, 2]


def test_one_has_to_be_left():
    with pytest.raises(ConfigError, match="end_ids name all 6 tokens"):
        min_tokens(jnp.asarray(LOGITS), jnp.zeros(4, jnp.int32), jnp.ones(4, jnp.int32), end_ids=tuple(range(6)))
