import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers import bad_tokens
from tests.oracles import samplers as oracle

LOGITS = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def test_oracle():
    got = bad_tokens(jnp.asarray(LOGITS), ids=(5, 0))
    np.testing.assert_array_equal(got, oracle.banned(LOGITS, (0, 5), [True] * 3))


def test_one_has_to_be_left():
    with pytest.raises(ConfigError, match="ids name all 6 tokens"):
        bad_tokens(jnp.asarray(LOGITS), ids=tuple(range(6)))
