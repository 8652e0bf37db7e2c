from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import vppo
from jaxrl_tok.token_weights.vppo import trajectory_scale
from tests.conformance.fields import assemble, mesh
from tests.oracles import weights as oracle

NAMES = "context_logprobs", "old_logprobs", "mask"


@pytest.mark.parametrize(("fraction", "floor"), [(0.4, 0.9), (1.0, 0.0)])
def test_oracle(fraction, floor):
    method = jax.jit(partial(vppo, fraction=fraction, floor=floor))
    for seed in range(3):
        fields = assemble(seed)
        arrays = [fields[n] for n in NAMES]
        expected = oracle.vppo(*(np.asarray(x, np.float64) for x in arrays[:2]), np.asarray(arrays[2]),
                               fraction=fraction, floor=floor)  # fmt: skip
        np.testing.assert_allclose(method(*arrays), expected, rtol=1e-4, atol=1e-6)  # k3 of small differences


def test_scales_by_hand():
    """Mean dependencies 1, 3, 2: z = 0, 1, 1/2 with mean 1/2, so 0.9, 1.1, 1.0. The fourth trains nothing."""
    dependency = jnp.array([[[1.0, 1.0], [2.0, 4.0], [2.0, jnp.nan], [9.0, 9.0]]])
    mask = jnp.array([[[True, True], [True, True], [True, False], [False, False]]])
    np.testing.assert_allclose(jax.jit(trajectory_scale)(dependency, mask), [[0.9, 1.1, 1.0, 0.0]], rtol=1e-6)


def test_equal_dependencies_have_scale_one():
    """Up to a range of 1e-6, where the min-max would blow up a rounding."""
    dependency = jnp.array([[[0.5], [0.5 + 5e-7]], [[0.5], [0.5]]])
    np.testing.assert_array_equal(jax.jit(trajectory_scale)(dependency, dependency > 0), np.ones((2, 2)))


def test_scale_is_over_all_shards():
    fields = assemble(0)
    arrays, spec = [fields[n] for n in NAMES], PartitionSpec("data")
    for axis_name, same in (("data", True), (None, False)):
        method = partial(vppo, axis_name=axis_name)
        sharded = jax.shard_map(method, mesh=mesh(), in_specs=spec, out_specs=spec)
        assert np.allclose(jax.jit(sharded)(*arrays), jax.jit(vppo)(*arrays), rtol=1e-5) == same


@pytest.mark.parametrize("option", [{"fraction": 0.0}, {"floor": 1.1}])
def test_bad_numbers_are_refused(option):
    with pytest.raises(ConfigError, match="vppo: fraction"):
        vppo(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), **option)
