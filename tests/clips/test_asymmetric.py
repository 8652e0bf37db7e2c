import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import asymmetric
from jaxrl_tok.errors import ConfigError


def test_bounds_are_those_of_the_ratio():
    mask = jnp.ones((2, 3), bool)
    low, high = asymmetric(mask, high=1.28)
    np.testing.assert_array_equal(low, np.full((2, 3), np.float32(0.8)))
    np.testing.assert_array_equal(high, np.full((2, 3), np.float32(1.28)))
    assert asymmetric(mask)[1][0, 0] == np.float32(1.2)


@pytest.mark.parametrize(("low", "high"), [(0.2, 0.28), (1.2, 0.8), (1.1, 1.2), (float("nan"), 1.2)])
def test_an_epsilon_in_place_of_a_bound_is_refused(low, high):
    with pytest.raises(ConfigError, match="bound the ratio"):
        asymmetric(jnp.ones((1, 1), bool), low=low, high=high)
