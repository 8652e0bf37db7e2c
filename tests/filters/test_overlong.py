import jax.numpy as jnp

from jaxrl_tok.filters import overlong

TRUNCATED = jnp.array([[True, False, False]])


def test_truncated_completions_are_dropped():
    assert overlong(TRUNCATED).tolist() == [[False, True, True]]


def test_missing_completions_too():
    assert overlong(TRUNCATED, jnp.array([[True, True, False]])).tolist() == [[False, True, False]]
