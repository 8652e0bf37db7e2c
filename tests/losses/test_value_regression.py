import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.losses import value_regression

LOSS = jax.jit(value_regression, static_argnames="kind")


def test_hand_numbers():
    values, labels, mask = jnp.array([[0.25, 0.5, 0.9]]), jnp.array([[1.0, 0.5, 0.0]]), jnp.array([[True, True, False]])
    np.testing.assert_allclose(LOSS(values, labels, mask), [[0.5625, 0, 0]])
    result = LOSS(values, labels, mask, kind="bce")
    np.testing.assert_allclose(result, [[math.log(4), math.log(2), 0]], rtol=1e-6)


def test_certain_and_wrong_is_finite_and_the_label_has_no_gradient():
    arrays = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]]), jnp.ones((1, 2), bool)
    loss = LOSS(*arrays, kind="bce")
    np.testing.assert_allclose(loss, [[-math.log(2.0**-23)] * 2], rtol=1e-5)  # the rounding of float32
    gradient = jax.grad(lambda y: LOSS(arrays[0], y, arrays[2]).sum())(arrays[1])
    np.testing.assert_array_equal(gradient, [[0, 0]])


@pytest.mark.parametrize("kind", ["mse", "bce"])
def test_gradient_is_zero_at_the_label(kind):
    arrays = jnp.array([[0.5, 0.25]]), jnp.array([[0.5, 0.25]]), jnp.ones((1, 2), bool)
    gradient = jax.grad(lambda v: LOSS(v, *arrays[1:], kind=kind).sum())(arrays[0])
    np.testing.assert_allclose(gradient, [[0, 0]], atol=1e-6)
