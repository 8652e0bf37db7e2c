import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import mismatch_mask
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle

LEVELS = "token", "sequence_sum", "sequence_mean", "sequence_max"
BOUNDS = {"k1": (0.8, 1.5), "k2": (0.5, 0.05), "k3": (0.5, 0.05)}


def test_oracle():
    """All levels and estimators; every one both keeps and rejects."""
    fields = assemble(1)
    arrays = [fields[n] for n in ("old_logprobs", "sampler_logprobs", "mask")]
    kinds = [(*kind, False) for kind in itertools.product(LEVELS, BOUNDS)] + [(level, "k1", True) for level in LEVELS]

    def options(level, estimator, as_released):
        low, high = BOUNDS[estimator]
        return {"level": level, "estimator": estimator, "low": low, "high": high, "as_released": as_released}

    results = jax.jit(lambda *a: [mismatch_mask(*a, **options(*kind)) for kind in kinds])(*arrays)
    reals = [np.asarray(x, np.float64) for x in arrays[:2]]
    for kind, result in zip(kinds, results, strict=True):
        expected = oracle.mismatch_mask(*reals, np.asarray(arrays[2]), **options(*kind))
        assert 0 < expected.sum() < int(arrays[2].sum())
        np.testing.assert_array_equal(result, expected, err_msg=str(kind))


def test_bounds_are_on_the_old_policy_over_the_sampler():
    """A ratio of 4 lies within 0.5 to 5, one of 1/4 does not; the released code has it the other way round."""
    old, sampler = jnp.log(jnp.array([[[0.8, 0.2]]])), jnp.log(jnp.array([[[0.2, 0.8]]]))
    options = {}, {"as_released": True}, {"level": "sequence_sum"}
    method = jax.jit(lambda *a: [mismatch_mask(*a, high=5.0, **o) for o in options])
    ratio, released, product = method(old, sampler, jnp.ones((1, 1, 2), bool))
    assert (ratio.tolist(), released.tolist(), product.tolist()) == ([[[1, 0]]], [[[0, 1]]], [[[1, 1]]])


@pytest.mark.parametrize("options", [{"low": 0.0}, {"low": 3.0}, {"estimator": "k3", "high": -1.0}])
def test_bad_bounds_are_refused(options):
    with pytest.raises(ConfigError, match="must satisfy"):
        mismatch_mask(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), **options)
