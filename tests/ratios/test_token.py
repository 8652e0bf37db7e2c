import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.ratios import token


def test_difference_clamped_and_masked():
    logprobs = jnp.array([[-1.0, -2.0, -50.0, -1.0]])
    old = jnp.array([[-1.5, -2.0, -1.0, -50.0]])
    mask = jnp.array([[True, True, True, True]])
    np.testing.assert_array_equal(token(logprobs, old, mask), [[0.5, 0.0, -20.0, 20.0]])
    np.testing.assert_array_equal(token(logprobs, old, ~mask), np.zeros((1, 4)))


def test_gradient_is_one_inside_and_zero_beyond_the_clamp():
    logprobs, old = jnp.array([[-1.0, -50.0, jnp.nan]]), jnp.array([[-1.5, -1.0, -1.0]])
    mask = jnp.array([[True, True, False]])
    grads = jax.grad(lambda x: jnp.sum(token(x, old, mask)))(logprobs)
    np.testing.assert_array_equal(grads, [[1.0, 0.0, 0.0]])
