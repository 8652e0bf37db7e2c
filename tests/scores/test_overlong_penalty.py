import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import overlong_penalty


def test_hand_numbers():
    """Free up to 6 of 10 tokens, then a quarter of 2 for each."""
    lengths, valid = jnp.array([[0, 6, 7, 10, 12, 10]]), jnp.array([[True] * 5 + [False]])
    result = overlong_penalty(lengths, valid, max_length=10, cache_length=4, factor=2.0)
    np.testing.assert_array_equal(result[0], [0, 0, -0.5, -2, -3, 0])


@pytest.mark.parametrize("cache_length", [0, 11])
def test_the_cache_lies_inside_the_limit(cache_length):
    with pytest.raises(ConfigError, match=f"cache_length = {cache_length} must"):
        overlong_penalty(jnp.array([[1]]), max_length=10, cache_length=cache_length)
