import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
