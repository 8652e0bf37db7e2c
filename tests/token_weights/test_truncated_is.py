from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import truncated_is
from tests.conformance.fields import assemble, mesh
from tests.oracles import weights as oracle

NAMES = "old_logprobs", "sampler_logprobs", "mask"


@pytest.mark.parametrize("options", [{}, {"low": 0.8, "high": 1.2}, {"high": 1.1, "normalize": True}])
def test_oracle(options):
    method = jax.jit(partial(truncated_is, **options))
    fields = assemble(1)
    arrays = [fields[n] for n in NAMES]
    expected = oracle.importance(*(np.asarray(x, np.float64) for x in arrays[:2]), np.asarray(arrays[2]), **options)
    np.testing.assert_allclose(method(*arrays), expected, rtol=1e-5)


def test_ratios_by_hand():
    old, sampler = jnp.log(jnp.array([[[0.6, 0.3, 0.9]]])), jnp.log(jnp.array([[[0.3, 0.4, 0.1]]]))
    mask = jnp.ones((1, 1, 3), bool)
    plain, scaled = (jax.jit(partial(truncated_is, high=3.0, normalize=x))(old, sampler, mask) for x in (False, True))
    np.testing.assert_allclose(plain, [[[2, 0.75, 3]]], rtol=1e-6)
    np.testing.assert_allclose(scaled, np.array([[[2, 0.75, 3]]]) * 3 / 5.75, rtol=1e-6)


def test_tokens_that_one_side_rules_out_stay_finite():
    far = jnp.array([[[-jnp.inf, 0.0, -200.0]]])
    method = jax.jit(partial(truncated_is, high=float("inf")))
    result = method(far, far[..., ::-1], jnp.ones((1, 1, 3), bool))
    np.testing.assert_allclose(result, np.exp([[[-20, 0, 0]]]) * [[[1, 1, 0]]] + [[[0, 0, np.exp(20)]]], rtol=1e-5)


def test_normalizing_over_shards():
    fields = assemble(0)
    arrays, spec = [fields[n] for n in NAMES], PartitionSpec("data")
    method = partial(truncated_is, normalize=True)
    sharded = jax.shard_map(partial(method, axis_name="data"), mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(sharded)(*arrays), jax.jit(method)(*arrays), rtol=1e-6)


@pytest.mark.parametrize("options", [{"low": -0.1}, {"low": 2.0, "high": 1.0}])
def test_bounds_in_the_wrong_order_are_refused(options):
    with pytest.raises(ConfigError, match="must satisfy 0 <= low <= high"):
        truncated_is(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), **options)
