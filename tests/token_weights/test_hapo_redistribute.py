import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import hapo_redistribute
from jaxrl_tok.token_weights.hapo_redistribute import prepare
from tests.conformance.fields import step
from tests.oracles import weights as oracle


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_oracle(beta):
    fields = step(1)
    h = jax.jit(prepare)(fields["entropy"], fields["mask"])
    arrays = [fields[name] for name in ("log_ratio", "low", "high")]
    result = jax.jit(lambda *a: hapo_redistribute(*a, beta=beta))(*arrays, h, fields["mask"])
    reals = [np.asarray(x, np.float64) for x in (jnp.exp(arrays[0]), *arrays[1:], h)]
    np.testing.assert_allclose(result, oracle.hapo_redistribute(*reals, np.asarray(fields["mask"]), beta), rtol=1e-6)


def test_four_tokens_by_hand():
    """Bounds 0.8 and 1.2 leave the band from 0.9 to 1.1. Uncertain tokens gain outside it, certain ones lose inside."""
    ratio, h = jnp.array([[1.15, 1.05, 1.05, 1.15, 1.0]]), jnp.array([[0.4, 0.4, -0.4, -0.4, jnp.nan]])
    low, high = jnp.full_like(ratio, 0.8), jnp.full_like(ratio, 1.2)
    mask = jnp.array([[True, True, True, True, False]])
    result = jax.jit(hapo_redistribute)(jnp.log(ratio), low, high, h, mask)
    np.testing.assert_allclose(result, [[1.4, 1, 0.6, 1, 0]], rtol=1e-6)


def test_a_beta_that_could_turn_credit_around_is_refused():
    with pytest.raises(ConfigError, match=r"beta = 1.5 must lie in \[0, 1\]"):
        hapo_redistribute(*[jnp.ones((1, 2))] * 4, jnp.ones((1, 2), bool), beta=1.5)
