import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import centred_rewards


def test_hand_numbers_with_a_missing_completion():
    rewards = jnp.array([[1.0, 0.0, jnp.nan, 2.0], [3.0, jnp.nan, jnp.nan, jnp.nan]])
    valid = ~jnp.isnan(rewards)
    np.testing.assert_array_equal(centred_rewards(rewards, valid), [[0, -1, 0, 1], [0, 0, 0, 0]])
    raw = centred_rewards(rewards, valid, singleton="raw")
    np.testing.assert_array_equal(raw, [[0, -1, 0, 1], [3, 0, 0, 0]])


def test_rounding_of_the_mean_does_not_show():
    rewards = jnp.full((1, 32), 0.9)
    assert jnp.mean(rewards) != jnp.float32(0.9)
    np.testing.assert_array_equal(centred_rewards(rewards), np.zeros((1, 32)))
