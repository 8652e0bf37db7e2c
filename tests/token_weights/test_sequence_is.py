from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import sequence_is
from tests.conformance.fields import assemble, mesh
from tests.oracles import weights as oracle

NAMES = "old_logprobs", "sampler_logprobs", "mask"


@pytest.mark.parametrize("options", [{}, {"mode": "mask", "low": 0.7, "high": 1.5}, {"high": 1.2, "normalize": True}])
def test_oracle(options):
    method = jax.jit(partial(sequence_is, **options))
    fields = assemble(1)
    arrays = [fields[n] for n in NAMES]
    reals = (np.asarray(x, np.float64) for x in arrays[:2])
    expected = oracle.importance(*reals, np.asarray(arrays[2]), level="sequence", **options)
    np.testing.assert_allclose(method(*arrays), expected, rtol=1e-5)


def test_the_product_of_a_completion_by_hand():
    """Ratios 2 and 3/4 multiply to 1.5, and 3 and 2 to 6."""
    old, sampler = jnp.log(jnp.array([[[0.6, 0.3], [0.3, 0.8]]])), jnp.log(jnp.array([[[0.3, 0.4], [0.1, 0.4]]]))
    mask = jnp.ones((1, 2, 2), bool)
    options = {}, {"mode": "mask", "high": 3.0}, {"normalize": True}
    plain, masked, scaled = jax.jit(lambda *a: [sequence_is(*a, **o) for o in options])(old, sampler, mask)
    np.testing.assert_allclose(plain, [[[1.5, 1.5], [2, 2]]], rtol=1e-6)
    np.testing.assert_allclose(masked, [[[1.5, 1.5], [0, 0]]], rtol=1e-6)
    np.testing.assert_allclose(scaled, np.array([[[1.5, 1.5], [2, 2]]]) / 1.75, rtol=1e-6)


def test_normalizing_over_shards():
    fields = assemble(0)
    arrays, spec = [fields[n] for n in NAMES], PartitionSpec("data")
    method = partial(sequence_is, normalize=True)
    sharded = jax.shard_map(partial(method, axis_name="data"), mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(sharded)(*arrays), jax.jit(method)(*arrays), rtol=1e-6)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"low = 3\.0 and high = 2\.0 must satisfy"):
        sequence_is(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), low=3.0)
