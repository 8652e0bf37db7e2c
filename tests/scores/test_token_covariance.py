import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxrl_tok.scores import token_covariance
from tests.conformance.fields import mesh, step
from tests.oracles import objectives as oracle

COVARIANCE = jax.jit(token_covariance)
READS = ("logprobs", "advantages", "mask")


def test_oracle():
    for seed in range(3):
        arrays = [step(seed)[name] for name in READS]
        np.testing.assert_allclose(
            COVARIANCE(*arrays), oracle.covariance(*map(np.asarray, arrays)), rtol=1e-4, atol=1e-6
        )


def test_in_shard_map_the_means_are_over_all_shards():
    arrays = [step(0)[name] for name in READS]
    spec = PartitionSpec("data")

    def sharded(axis_name):
        method = lambda *a: token_covariance(*a, axis_name=axis_name)  # noqa: E731
        return jax.jit(jax.shard_map(method, mesh=mesh(), in_specs=spec, out_specs=spec))(*arrays)

    np.testing.assert_allclose(sharded("data"), COVARIANCE(*arrays), rtol=1e-4, atol=1e-5)
    assert not np.allclose(sharded(None), COVARIANCE(*arrays), atol=1e-3)


def test_what_is_masked_does_not_matter():
    x = jnp.array([[1.0, 3.0, jnp.nan]])
    np.testing.assert_array_equal(COVARIANCE(x, -x, jnp.array([[True, True, False]])), [[-1, -1, 0]])
