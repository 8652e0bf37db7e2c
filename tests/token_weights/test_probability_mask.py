from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import probability_mask
from tests.conformance.fields import assemble, mesh

OLD = jnp.log(jnp.array([[[0.95, 0.5, 0.89, 0.1], [0.91, 0.2, 1.0, 0.3]]]))
MASK = jnp.array([[[True, True, True, True], [True, True, True, False]]])


def test_tokens_below_the_threshold_train():
    np.testing.assert_array_equal(jax.jit(probability_mask)(OLD, MASK), [[[0, 1, 1, 1], [0, 1, 0, 0]]])


def test_renormalized_weights_divide_by_the_kept_ones():
    """Seven tokens train, four of them below 0.9."""
    kept = np.asarray([[[0, 1, 1, 1], [0, 1, 0, 0]]])
    method = jax.jit(partial(probability_mask, renormalize=True))
    np.testing.assert_allclose(method(OLD, MASK), kept * 7 / 4, rtol=1e-6)
    np.testing.assert_array_equal(method(jnp.zeros_like(OLD), MASK), jnp.zeros_like(OLD))


def test_a_token_of_two_completions_counts_once():
    """Token 1 is that of both completions: the uncertain tokens are 1 + 2 of the first and nothing of its copy."""
    shared = jnp.array([[[2.0, 2, 1, 1], [2, 2, 1, 1]]])
    np.testing.assert_allclose(probability_mask(OLD, MASK, shared), [[[0, 0.5, 1, 1], [0, 0.5, 0, 0]]])
    method = jax.jit(partial(probability_mask, renormalize=True))
    np.testing.assert_allclose(
        method(OLD, MASK, shared), np.array([[[0, 0.5, 1, 1], [0, 0.5, 0, 0]]]) * 7 / 3, rtol=1e-6
    )


def test_renormalizing_over_shards():
    fields = assemble(0)
    arrays, spec = (fields["old_logprobs"], fields["mask"]), PartitionSpec("data")
    method = partial(probability_mask, threshold=0.5, renormalize=True)
    sharded = jax.shard_map(partial(method, axis_name="data"), mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(sharded)(*arrays), jax.jit(method)(*arrays), rtol=1e-6)


def test_a_threshold_that_keeps_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"threshold = 0\.0 must be above 0"):
        probability_mask(OLD, MASK, threshold=0.0)
