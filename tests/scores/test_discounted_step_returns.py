import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import discounted_step_returns

RETURNS = jax.jit(discounted_step_returns, static_argnames="gamma")


def test_hand_numbers():
    """A step that does not exist has no reward and takes a discount."""
    rewards = jnp.array([[[1.0, 2.0, 4.0], [1.0, jnp.nan, 4.0]]])
    exists = jnp.array([[[True, True, True], [True, False, True]]])
    np.testing.assert_array_equal(RETURNS(rewards, exists, gamma=0.5), [[[3, 4, 4], [2, 0, 4]]])
    np.testing.assert_array_equal(RETURNS(rewards[:, :1], exists[:, :1], gamma=1.0), [[[7, 6, 4]]])
