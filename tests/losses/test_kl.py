import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import kl
from tests.conformance.fields import step
from tests.oracles import losses as oracle

# d estimate / d logprobs, as a function of d
SLOPES = {"k1": lambda d: np.ones_like(d), "k2": lambda d: d, "k3": lambda d: 1 - np.exp(-d), "abs": np.sign}


@pytest.fixture
def arrays():
    fields = step(0)
    return tuple(fields[name] for name in ("logprobs", "ref_logprobs", "mask"))


@pytest.mark.parametrize("straight_through", [False, True])
@pytest.mark.parametrize("estimator", sorted(SLOPES))
def test_value_and_gradient(arrays, estimator, straight_through):
    logprobs, ref_logprobs, mask = (np.asarray(x) for x in arrays)

    def total(x):
        values = kl(x, *arrays[1:], estimator=estimator, straight_through=straight_through)
        return jnp.sum(values), values

    grads, values = jax.grad(total, has_aux=True)(arrays[0])
    expected = np.zeros(mask.shape)
    for b, t in np.argwhere(mask):
        expected[b, t] = oracle.kl(logprobs[b, t], ref_logprobs[b, t], estimator)
    np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
    d = np.where(mask, logprobs - ref_logprobs, 0)
    slope = SLOPES["k2" if straight_through else estimator](d)
    np.testing.assert_allclose(grads, np.where(mask, slope, 0), rtol=1e-5, atol=1e-6)


def test_policy_at_the_reference_has_no_penalty(arrays):
    logprobs, _, mask = arrays
    for estimator in SLOPES:
        np.testing.assert_array_equal(kl(logprobs, logprobs, mask, estimator=estimator), np.zeros(mask.shape))


def test_bias_correction_weighs_by_the_ratio_and_differentiates_it(arrays):
    """d/dx of r k3 with r = exp(x - old) is r (k3 + slope), as in TRL."""
    logprobs, ref_logprobs, mask = arrays
    log_ratio = step(1)["log_ratio"]
    d = np.where(mask, logprobs - ref_logprobs, 0)
    ratio, k3 = np.where(mask, np.exp(log_ratio), 0), np.exp(-d) - 1 + d

    def total(x):
        values = kl(x, ref_logprobs, mask, log_ratio + x - logprobs, bias_corrected=True)
        return jnp.sum(values), values

    grads, values = jax.grad(total, has_aux=True)(logprobs)
    np.testing.assert_allclose(values, ratio * k3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(grads, ratio * (k3 + SLOPES["k3"](d)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="bias_corrected = true needs the array log_ratio"):
        kl(*arrays, bias_corrected=True)
    with pytest.raises(ConfigError, match="bias_corrected = true needs straight_through = false"):
        kl(*arrays, log_ratio, bias_corrected=True, straight_through=True)


def test_at_the_reference_no_estimator_but_k1_has_a_gradient(arrays):
    logprobs, _, mask = arrays
    for estimator, slope in SLOPES.items():
        grads = jax.grad(lambda x, kind=estimator: jnp.sum(kl(x, logprobs, mask, estimator=kind)))(logprobs)
        np.testing.assert_array_equal(grads, np.where(mask, slope(np.zeros(mask.shape)), 0))
