import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import leave_one_out


def test_hand_numbers_with_missing_completions():
    rewards = jnp.array([[1.0, 0.0, jnp.nan, 5.0], [3.0, jnp.nan, jnp.nan, jnp.nan]])
    valid = ~jnp.isnan(rewards)
    np.testing.assert_array_equal(leave_one_out(rewards, valid), [[-1.5, -3, 0, 4.5], [0, 0, 0, 0]])
    raw = leave_one_out(rewards, valid, singleton="raw")
    np.testing.assert_array_equal(raw, [[-1.5, -3, 0, 4.5], [3, 0, 0, 0]])


def test_each_reward_stands_against_the_mean_of_the_others():
    rng = np.random.default_rng(0)
    rewards = rng.normal(size=(3, 5)).astype(np.float32)
    others = [[np.delete(row, g).mean() for g in range(5)] for row in rewards]
    np.testing.assert_allclose(leave_one_out(jnp.asarray(rewards)), rewards - others, rtol=0, atol=1e-6)
