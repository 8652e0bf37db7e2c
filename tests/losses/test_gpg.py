import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import gpg


def test_hand_numbers_and_gradient():
    mask = jnp.array([[True, True, False]])
    logprobs, advantages, weights = (
        jnp.array([x]) for x in ([-0.5, -2.0, jnp.nan], [2.0, -1.0, jnp.nan], [1.0, 0.5, jnp.nan])
    )
    np.testing.assert_array_equal(gpg(logprobs, advantages, weights, mask), [[1.0, -1.0, 0.0]])
    gradient = jax.grad(lambda x: jnp.sum(gpg(x, advantages, weights, mask)))(logprobs)
    np.testing.assert_array_equal(gradient, [[-2.0, 0.5, 0.0]])
