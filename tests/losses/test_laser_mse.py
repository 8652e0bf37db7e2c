import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.losses import laser_mse
from jaxrl_tok.losses.laser_mse import prepare
from jaxrl_tok.reductions import row_mean

LOSS, PREPARE = jax.jit(laser_mse), jax.jit(prepare, static_argnames="balanced")
REWARDS = jnp.array([1.0, 0.0, 0.0, 1.0, jnp.nan])
FINISHED = jnp.array([True, True, True, False, True])
VALID = jnp.array([True, True, True, True, False])
SCORES = jnp.array([-16.0, -23.0, -18.0, -23.0, jnp.nan])  # self-rewards 0.7, 0, 0.5, 0


def test_hand_numbers():
    """Three finished, one right and two wrong: weights 3/2 and 3/4; four completions in the mean."""
    weights = PREPARE(REWARDS, FINISHED, VALID)
    np.testing.assert_allclose(weights, [1.5, 0.75, 0.75, 0, 0])
    losses = LOSS(SCORES, REWARDS, FINISHED, weights, VALID)
    np.testing.assert_allclose(losses, [1.5 * 0.09, 0, 0.75 * 0.25, 0, 0], rtol=1e-5)
    assert row_mean(losses, VALID).value() == pytest.approx((0.135 + 0.1875) / 4, rel=1e-5)


def test_unbalanced_weights_are_one_and_a_missing_class_has_none():
    np.testing.assert_array_equal(PREPARE(REWARDS, FINISHED, VALID, balanced=False), np.ones(5))
    alike = jnp.ones(4)
    np.testing.assert_array_equal(PREPARE(alike, jnp.ones(4, bool)), [0.5] * 4)


def test_gradient_flows_through_the_score_of_finished_completions_only():
    """2 w beta (s - r)."""
    weights = PREPARE(REWARDS, FINISHED, VALID)
    grads = jax.jit(jax.grad(lambda x: jnp.sum(laser_mse(x, REWARDS, FINISHED, weights, VALID))))(SCORES)
    np.testing.assert_allclose(grads, [2 * 1.5 * 0.1 * -0.3, 0, 2 * 0.75 * 0.1 * 0.5, 0, 0], rtol=1e-5)
