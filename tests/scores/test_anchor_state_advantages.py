import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import anchor_state_advantages
from tests.kernels.jaxpr_shapes import shapes
from tests.oracles import structures as oracle

ANCHOR = jax.jit(anchor_state_advantages, static_argnames="use_std")


@pytest.mark.parametrize("use_std", [False, True])
def test_oracle(use_std):
    rng = np.random.default_rng(0)
    returns = rng.normal(size=(3, 4, 5)).astype(np.float32)
    states = rng.integers(-2, 3, (3, 4, 5)).astype(np.int32) * 1000
    exists = rng.random((3, 4, 5)) < 0.7
    expected = oracle.anchor(returns, states, exists, eps=1e-6 if use_std else None)
    np.testing.assert_allclose(ANCHOR(returns, states, exists, use_std=use_std), expected, rtol=1e-4, atol=1e-5)


def test_equal_returns_and_unique_states_give_exactly_zero():
    returns = jnp.full((1, 3, 3), 0.9).at[0, 2].set(jnp.array([5.0, 6.0, 7.0]))
    states = jnp.array([[[1, 1, 1], [1, 1, 1], [2, 3, 4]]])
    for use_std in (False, True):
        result = ANCHOR(returns, states, jnp.ones((1, 3, 3), bool), use_std=use_std)
        np.testing.assert_array_equal(result, np.zeros((1, 3, 3)))


def test_no_array_has_the_steps_of_a_group_twice():
    arrays = jnp.zeros((2, 7, 11)), jnp.zeros((2, 7, 11), jnp.int32), jnp.ones((2, 7, 11), bool)
    jaxpr = jax.make_jaxpr(anchor_state_advantages)(*arrays)
    assert {name for name, size in shapes(jaxpr) if math.prod(size) >= 2 * 77 * 77} == set()
