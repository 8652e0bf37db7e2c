import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import implicit_step_rewards

ARRAYS = (
    jnp.array([[[0, 0, 1, -1]]]),
    jnp.array([[[True, True, False]]]),
    jnp.array([[[-1.0, -2.0, -3.0, jnp.nan]]]),
    jnp.array([[[-0.5, -0.5, -7.0, -9.0]]]),
    jnp.array([[[True, True, True, False]]]),
)
REWARDS = jax.jit(implicit_step_rewards, static_argnames=("beta", "normalize"))


def test_hand_numbers():
    np.testing.assert_allclose(REWARDS(*ARRAYS, beta=0.5, normalize=False), [[[1, -2, 0]]])
    np.testing.assert_allclose(REWARDS(*ARRAYS), [[[0.5, -1, 0]]], rtol=1e-5)  # over the largest, 0.05 * 4


def test_without_a_step_it_is_zero():
    np.testing.assert_array_equal(REWARDS(*ARRAYS, jnp.zeros((1, 1), bool)), [[[0, 0, 0]]])
