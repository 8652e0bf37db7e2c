import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import archer
from jaxrl_tok.errors import ConfigError


def test_hand_numbers():
    """The 0.8 quantile of 1..5 is 4.2, so only 5 is above it; one token alone and equal ones are low."""
    entropy = jnp.array([[3.0, 1.0, 5.0, 2.0, 4.0], [7.0, 0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 9.0, 9.0]])
    mask = jnp.array([[True] * 5, [True, False, False, False, False], [True, True, True, False, False]])
    low, high = jax.jit(archer)(entropy, mask)
    wide = np.zeros((3, 5), bool)
    wide[0, 2] = True
    np.testing.assert_allclose(low, np.where(wide, 0.5, 0.8))
    np.testing.assert_allclose(high, np.where(wide, 1.5, 1.2))


def test_bad_options_are_refused():
    arrays = jnp.ones((1, 2)), jnp.ones((1, 2), bool)
    with pytest.raises(ConfigError, match=r"0\.2 and 0\.5 bound the ratio and must have 1 between them"):
        archer(*arrays, wide_low=0.2, wide_high=0.5)
    with pytest.raises(ConfigError, match=r"quantile = 80\.0 must lie in"):
        archer(*arrays, quantile=80.0)
