import jax.numpy as jnp
import numpy as np

from jaxrl_tok.samplers import token_bias
from tests.oracles import samplers as oracle

LOGITS = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)


def test_oracle_with_an_id_that_comes_twice():
    bias = np.array([1.5, -2.0, 0.0], np.float32)
    got = token_bias(jnp.asarray(LOGITS), jnp.asarray(bias), ids=(4, 1, 4))
    np.testing.assert_allclose(got, oracle.token_bias(LOGITS, bias, (1, 4)), rtol=1e-6)
    np.testing.assert_array_equal(got[2], LOGITS[2])


def test_a_token_without_mass_keeps_none():
    logits = jnp.asarray(LOGITS).at[:, 2].set(-jnp.inf)
    assert np.all(np.asarray(token_bias(logits, jnp.full(3, 9.0), ids=(2,)))[:, 2] == -np.inf)
