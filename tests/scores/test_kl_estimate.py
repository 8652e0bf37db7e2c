import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import kl_estimate
from tests.oracles import losses as oracle

POLICY = np.log([0.1, 0.6, 0.3])
REFERENCE = np.log([0.5, 0.25, 0.25])


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "abs"])
def test_formula(estimator):
    result = kl_estimate(jnp.asarray(POLICY), jnp.asarray(REFERENCE), estimator=estimator)
    expected = [oracle.kl(p, q, estimator) for p, q in zip(POLICY, REFERENCE, strict=True)]
    # k3 subtracts near-equal float32 numbers: an ulp of d over d^2 / 2.
    np.testing.assert_allclose(result, expected, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_mean_over_the_policy_is_the_divergence(estimator):
    divergence = np.sum(np.exp(POLICY) * (POLICY - REFERENCE))
    estimate = kl_estimate(jnp.asarray(POLICY), jnp.asarray(REFERENCE), estimator=estimator)
    assert np.sum(np.exp(POLICY) * np.asarray(estimate)) == pytest.approx(divergence, rel=1e-5)


def test_k3_keeps_its_digits_near_zero():
    d = jnp.float32(1e-3)
    assert kl_estimate(d, jnp.float32(0), estimator="k3") == pytest.approx(1e-6 / 2 - 1e-9 / 6, rel=1e-3)


def test_clamp_bounds_both_ends_as_verl():
    low, high = jnp.float32([-30.0, -4.0]), jnp.zeros(2)
    np.testing.assert_array_equal(kl_estimate(low, high, clamp=True), [10, 10])
    free = kl_estimate(low, high)
    np.testing.assert_allclose(free, [np.exp(30) - 31, np.exp(4) - 5], rtol=1e-6)
    assert kl_estimate(jnp.float32(30.0), jnp.float32(0), clamp=True) == 10
