import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import entropy_scaled
from jaxrl_tok.errors import ConfigError

SCALED = jax.jit(entropy_scaled, static_argnames=("low", "high"))


def test_hand_numbers():
    """Mean 1: segments with means 0.5, 0.5 and 2.5 have half, half and 2.5 times the width; no entropy at all has 1."""
    entropy = jnp.array([[0.5, 0.5, 0.5, 2.5, jnp.nan], [0.0] * 5])
    ids = jnp.array([[0, 0, -1, 2, 2], [0] * 5])
    mask = jnp.array([[True, True, True, True, False], [True] * 5])
    low, high = SCALED(entropy, ids, mask, low=0.8, high=1.4)
    np.testing.assert_allclose(low, [[0.9, 0.9, 0.9, 0.5, 0.8], [0.8] * 5], rtol=1e-6)
    np.testing.assert_allclose(high, [[1.2, 1.2, 1.2, 2.0, 1.4], [1.4] * 5], rtol=1e-6)


def test_the_lower_bound_stays_at_least_zero():
    low, _ = SCALED(jnp.array([[0.0, 0.0, 9.0]]), jnp.array([[0, 0, 1]]), jnp.ones((1, 3), bool), low=0.5)
    np.testing.assert_array_equal(low, [[1, 1, 0]])


def test_bad_bounds_are_refused():
    with pytest.raises(ConfigError, match=r"low = 1\.1"):
        entropy_scaled(jnp.ones((1, 1)), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool), low=1.1)
