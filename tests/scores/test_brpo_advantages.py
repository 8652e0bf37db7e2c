import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import brpo_advantages
from tests.oracles import structures as oracle

BRPO = jax.jit(brpo_advantages, static_argnames=("baseline", "singleton"))


@pytest.mark.parametrize("baseline", ["brpo", "none", "v1only", "v2only"])
def test_oracle(baseline):
    rng = np.random.default_rng(0)
    scores = rng.choice([0.0, 0.5, 1.0], (2, 5, 4, 3)).astype(np.float32)
    prior = rng.random(4).astype(np.float32)
    valid = np.array([[True] * 5, [True, False, True, True, False]])
    result = BRPO(np.where(valid[:, :, None, None], scores, np.nan), prior, valid, baseline=baseline)
    for p in range(2):
        expected = oracle.brpo(scores[p, valid[p]], prior, baseline=baseline)
        np.testing.assert_allclose(result[p, valid[p]], expected, rtol=1e-5, atol=1e-6)
        assert (result[p, ~valid[p]] == 0).all()


def test_the_prior_is_scaled_to_a_distribution():
    scores = jnp.array([[[[1.0], [0.0]], [[0.0], [1.0]]]])
    np.testing.assert_allclose(BRPO(scores, jnp.array([1.0, 3.0])), BRPO(scores, jnp.array([0.25, 0.75])), rtol=1e-6)
