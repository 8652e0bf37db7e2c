import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import psr_nsr

METHOD = jax.jit(psr_nsr, static_argnames=("mode", "positive_weight"))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("positive", [1, 0, 0.5, 0]), ("negative", [0, -1, -0.5, 0]), ("weighted", [0.25, -1, 0.5, 0])],
)
def test_hand_numbers(mode, expected):
    """A reward between 0 and 1 is not weighted; a missing one gives 0."""
    rewards = jnp.array([[1.0, 0.0, 0.5, jnp.nan]])
    mask = jnp.ones((1, 4, 2), bool).at[0, 0, 1].set(False)
    result = METHOD(rewards, mask, ~jnp.isnan(rewards), mode=mode, positive_weight=0.25)
    np.testing.assert_array_equal(result[0, :, 0], expected)
    np.testing.assert_array_equal(result[0, :, 1], [0, *expected[1:]])
