from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import d3s_tokens
from tests.conformance.fields import assemble, mesh
from tests.oracles import weights as oracle

NAMES = "advantages", "old_entropy", "mask"


@pytest.mark.parametrize("fraction", [0.01, 0.2, 1.0])
def test_oracle_with_and_without_ties(fraction):
    method = jax.jit(partial(d3s_tokens, fraction=fraction))
    for seed in range(3):
        fields = assemble(seed)
        for arrays in ([fields[n] for n in NAMES], [jnp.round(fields[n]) for n in NAMES[:2]] + [fields["mask"]]):
            expected = oracle.d3s_tokens(*map(np.asarray, arrays), fraction)
            np.testing.assert_array_equal(method(*arrays), expected)


def test_the_fraction_grows_with_the_training():
    """Of ten tokens 2 at the start, 2 + 0.5 * 4 half way, 6 at the end; products 0 to 9."""
    product = jnp.arange(10.0).reshape(1, 2, 5)
    one = jnp.ones_like(product)
    method = jax.jit(partial(d3s_tokens, fraction=0.2, final_fraction=0.6))
    for progress, kept in ((0.0, 2), (0.5, 4), (1.0, 6)):
        result = np.asarray(method(-product, one, one > 0, jnp.float32(progress)))
        np.testing.assert_array_equal(result.reshape(-1), np.arange(10) >= 10 - kept)


def test_over_shards():
    fields = assemble(0)
    arrays, spec = [fields[n] for n in NAMES], PartitionSpec("data")
    sharded = jax.shard_map(partial(d3s_tokens, axis_name="data"), mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_array_equal(jax.jit(sharded)(*arrays), jax.jit(d3s_tokens)(*arrays))


@pytest.mark.parametrize("option", [{"fraction": 0.0}, {"final_fraction": 1.5}])
def test_fractions_outside_their_range_are_refused(option):
    with pytest.raises(ConfigError, match=r"must lie in \(0, 1\]"):
        d3s_tokens(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), **option)
