import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import sapo

SAPO = jax.jit(sapo, static_argnames=("tau_positive", "tau_negative"))


def losses(log_ratio, advantages, **hyper):
    return SAPO(log_ratio, advantages, 2 * jnp.ones_like(log_ratio), jnp.ones(log_ratio.shape, bool), **hyper)


def test_hand_numbers():
    """-w A (4 / tau) / (1 + exp(-tau (r - 1))), with w = 2 and tau = 1 or 1.05; an advantage of 0 has the second."""
    ratio, advantages = [0.5, 1.0, 3.0], [1.0, -2.0, -1.0]
    expected = []
    for r, a in zip(ratio, advantages, strict=True):
        tau = 1.0 if a > 0 else 1.05
        expected.append(-2 * a * 4 / tau / (1 + math.exp(-tau * (r - 1))))
    result = losses(jnp.log(jnp.array([ratio])), jnp.array([advantages]))
    np.testing.assert_allclose(result, [expected], rtol=1e-6)


def test_gradient_fades_out_on_both_sides():
    """4 s (1 - s) r at tau = 1: 1 at the old policy."""
    ratio = jnp.array([[0.01, 1.0, 10.0]])
    grads = jax.jit(jax.grad(lambda x: jnp.sum(losses(x, jnp.ones((1, 3))))))(jnp.log(ratio))
    gate = 1 / (1 + np.exp(-(np.asarray(ratio) - 1)))
    np.testing.assert_allclose(grads, -2 * 4 * gate * (1 - gate) * ratio, rtol=1e-5)
    np.testing.assert_allclose(grads[0, 1], -2, rtol=1e-6)


def test_a_tau_of_zero_is_refused():
    with pytest.raises(ConfigError, match=r"tau_negative = 0\.0 must be positive"):
        losses(jnp.zeros((1, 1)), jnp.ones((1, 1)), tau_negative=0.0)
