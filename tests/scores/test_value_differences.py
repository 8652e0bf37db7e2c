import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import value_differences
from tests.oracles import structures as oracle

DIFFERENCES = jax.jit(value_differences)


def test_hand_numbers():
    result = DIFFERENCES(jnp.array([[[0.25, 0.5, 0.0]]]), jnp.array([[[0.0, 1.0]]]))
    np.testing.assert_array_equal(result, [[[0.25, 0.5]]])


def test_oracle_with_values_that_are_missing():
    rng = np.random.default_rng(0)
    values = rng.choice([0.0, 0.5, np.nan], (3, 2, 6)).astype(np.float32)
    rewards = rng.normal(size=(3, 2, 5)).astype(np.float32)
    expected = [
        [oracle.differences(*pair) for pair in zip(*group, strict=True)] for group in zip(values, rewards, strict=True)
    ]
    np.testing.assert_allclose(DIFFERENCES(values, rewards), expected, rtol=1e-5, atol=1e-6)


def test_a_missing_value_has_no_gradient():
    values = jnp.array([[[0.5, jnp.nan, 0.25, jnp.nan]]])
    gradient = jax.grad(lambda v: DIFFERENCES(v, jnp.zeros((1, 1, 3)))[0, 0, 0])(values)
    np.testing.assert_array_equal(gradient, [[[-1, 0, 1, 0]]])
