from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import divergence_weight
from tests.conformance.fields import assemble, mesh

DIVERGENCE = jnp.array([[[0.1, 0.3, 0.2], [0.6, jnp.nan, jnp.nan]]])
MASK = jnp.array([[[True, True, True], [True, False, False]]])


def test_four_tokens_by_hand():
    """Their mean is 0.3."""
    np.testing.assert_allclose(
        jax.jit(divergence_weight)(DIVERGENCE, MASK), [[[1 / 3, 1, 2 / 3], [2, 0, 0]]], rtol=1e-6
    )
    half = jax.jit(partial(divergence_weight, strength=0.5))(DIVERGENCE, MASK)
    np.testing.assert_allclose(half, [[[2 / 3, 1, 5 / 6], [1.5, 0, 0]]], rtol=1e-6)


def test_no_divergence_is_uniform():
    np.testing.assert_array_equal(divergence_weight(jnp.zeros_like(DIVERGENCE), MASK), MASK)


def test_mean_is_over_all_shards():
    fields = assemble(0)
    arrays, spec = (fields["js_to_ref"], fields["mask"]), PartitionSpec("data")
    sharded = jax.shard_map(partial(divergence_weight, axis_name="data"), mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(sharded)(*arrays), jax.jit(divergence_weight)(*arrays), rtol=1e-6)


def test_a_strength_that_could_turn_credit_around_is_refused():
    with pytest.raises(ConfigError, match=r"strength = 1.5 must lie in \[0, 1\]"):
        divergence_weight(DIVERGENCE, MASK, strength=1.5)
