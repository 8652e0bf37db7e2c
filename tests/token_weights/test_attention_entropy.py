from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import attention_entropy

ENTROPY = jnp.array([[[0.5, 0.1, 0.9, 0.4, 0.6, 0.0]]])
MASK = jnp.arange(6)[None, None] < 5


def test_anchors_look_at_one_place_and_explorers_at_many():
    np.testing.assert_array_equal(jax.jit(attention_entropy)(ENTROPY, MASK), [[[1, 1.5, 1, 1, 1, 0]]])
    method = jax.jit(partial(attention_entropy, tokens="explorers", fraction=0.4, amplify=2.0))
    np.testing.assert_array_equal(method(ENTROPY, MASK), [[[1, 1, 2, 1, 2, 0]]])


@pytest.mark.parametrize("option", [{"fraction": 0.0}, {"amplify": -1.0}])
def test_bad_numbers_are_refused(option):
    with pytest.raises(ConfigError, match="attention_entropy: fraction"):
        attention_entropy(ENTROPY, MASK, **option)
