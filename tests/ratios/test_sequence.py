import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.ratios import sequence
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

SEQUENCE = jax.jit(sequence, static_argnames="gradient")
READS = ("logprobs", "old_logprobs", "mask")


def test_hand_numbers():
    """Log-ratios 0.3 and -0.1, and a masked token: the mean is 0.1."""
    logprobs, old = jnp.array([[-1.0, -2.0, -9.0]]), jnp.array([[-1.3, -1.9, -1.0]])
    result = SEQUENCE(logprobs, old, jnp.array([[True, True, False]]))
    np.testing.assert_allclose(result, [[0.1, 0.1, 0]], rtol=1e-6)


@pytest.mark.parametrize("gradient", ["token", "mean"])
def test_oracle(gradient):
    for seed in range(3):
        arrays = [step(seed)[name] for name in READS]
        logprobs, old, mask = map(np.asarray, arrays)
        expected = oracle.segment(logprobs, old, np.zeros(mask.shape, int), mask)
        np.testing.assert_allclose(SEQUENCE(*arrays, gradient=gradient), expected, rtol=1e-5, atol=1e-6)


def test_gradient_is_of_the_token_or_of_the_mean():
    """Weights 1, 2, 3 on a row of three tokens: each token its own weight, or each the mean one."""
    mask, old = jnp.ones((1, 3), bool), jnp.zeros((1, 3))
    weights = jnp.array([[1.0, 2.0, 3.0]])

    def grads(gradient):
        return jax.jit(jax.grad(lambda x: jnp.sum(weights * sequence(x, old, mask, gradient=gradient))))(old - 0.1)

    np.testing.assert_allclose(grads("token"), weights)
    np.testing.assert_allclose(grads("mean"), [[2, 2, 2]], rtol=1e-6)


def test_ten_nats_are_the_bound_and_the_end_of_the_gradient():
    mask, old = jnp.ones((2, 2), bool), jnp.array([[-50.0, -50.0], [-1.0, -1.0]])
    logprobs = jnp.array([[-1.0, -1.0], [-60.0, -60.0]])
    np.testing.assert_allclose(SEQUENCE(logprobs, old, mask), [[10, 10], [-59, -59]])
    grads = jax.jit(jax.grad(lambda x: jnp.sum(sequence(x, old, mask))))(logprobs)
    np.testing.assert_array_equal(grads, [[0, 0], [1, 1]])
