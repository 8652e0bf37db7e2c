import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import low_entropy
from tests.oracles import objectives as oracle

LOW = jax.jit(low_entropy, static_argnames="quantile")


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.8, 1.0])
def test_oracle_with_and_without_ties(quantile):
    rng = np.random.default_rng(2)
    mask = rng.random((9, 11)) < 0.8
    mask[0], mask[1] = False, np.arange(11) == 4
    for entropy in (rng.exponential(1, (9, 11)), rng.integers(0, 3, (9, 11)).astype(float)):
        expected = oracle.low_entropy(np.float32(entropy), mask, quantile)
        spoilt = np.where(mask, entropy, np.nan)
        np.testing.assert_array_equal(LOW(jnp.float32(spoilt), jnp.asarray(mask), quantile=quantile), expected)


def test_a_quantile_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"quantile = -0\.1 must lie in \[0, 1\]"):
        low_entropy(jnp.ones((1, 1)), jnp.ones((1, 1), bool), quantile=-0.1)
