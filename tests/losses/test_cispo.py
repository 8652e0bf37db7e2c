import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.losses import cispo

CISPO = jax.jit(cispo, static_argnames="cap")


def losses(ratio, logprobs, advantages, low=0.8, high=1.2, weight=1.0, **hyper):
    ratio, logprobs, advantages = (jnp.array([x]) for x in (ratio, logprobs, advantages))
    full = jnp.ones_like(ratio)
    return CISPO(
        logprobs,
        jnp.log(ratio),
        low * full,
        high * full,
        advantages,
        weight * full,
        jnp.ones(ratio.shape, bool),
        **hyper,
    )


@pytest.mark.parametrize(("cap", "capped"), [("both", [0.8, 1.0, 1.2]), ("upper", [0.5, 1.0, 1.2])])
def test_hand_numbers(cap, capped):
    """-w c A log p with w = 2 and A = 3."""
    result = losses([0.5, 1.0, 4.0], [-1.0, -2.0, -0.5], [3.0] * 3, weight=2.0, cap=cap)
    np.testing.assert_allclose(result, [np.multiply(capped, [6, 12, 3])], rtol=1e-6)


def test_every_token_has_a_gradient_and_the_ratio_none():
    ratio, logprobs, advantages = [0.5, 1.0, 4.0], jnp.array([-1.0, -2.0, -0.5]), [3.0, -1.0, 1.0]
    grads = jax.jit(jax.grad(lambda x: jnp.sum(losses(ratio, x, advantages))))(logprobs)
    np.testing.assert_allclose(grads, [-2.4, 1.0, -1.2], rtol=1e-6)
    grads = jax.jit(jax.grad(lambda x: jnp.sum(losses(x, logprobs, advantages))))(jnp.array(ratio))
    np.testing.assert_array_equal(grads, [0, 0, 0])
