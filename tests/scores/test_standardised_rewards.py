import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import standardised_rewards


def test_hand_numbers_with_missing_completions():
    rewards = jnp.array([[1.0, 0.0, jnp.nan, 2.0], [3.0, jnp.nan, jnp.nan, jnp.nan]])
    valid = ~jnp.isnan(rewards)
    np.testing.assert_array_equal(standardised_rewards(rewards, valid, eps=1.0), [[0, -0.5, 0, 0.5], [0, 0, 0, 0]])
    raw = standardised_rewards(rewards, valid, eps=0.5, singleton="raw")
    np.testing.assert_allclose(raw, [[0, -1 / 1.5, 0, 1 / 1.5], [2, 0, 0, 0]], rtol=1e-6)


def test_the_deviation_divides_by_one_less_than_the_number():
    np.testing.assert_allclose(
        standardised_rewards(jnp.array([[0.0, 2.0]]), eps=0.0), [[-(2**-0.5), 2**-0.5]], rtol=1e-6
    )
