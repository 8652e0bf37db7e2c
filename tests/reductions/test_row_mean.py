import jax.numpy as jnp

from jaxrl_tok.reductions import row_mean


def test_hand_numbers():
    mean = row_mean(jnp.array([1.0, jnp.nan, 0.0, 5.0]), jnp.array([True, False, True, True]))
    assert (mean.total, mean.count, mean.value()) == (6, 3, 2)


def test_without_a_valid_completion_it_is_zero():
    assert row_mean(jnp.full(3, jnp.nan), jnp.zeros(3, bool)).value() == 0
