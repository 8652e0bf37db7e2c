import functools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.filters import max_variance_subset
from tests.conformance.fields import assemble, mesh
from tests.oracles import weights as oracle


def keep(n, values):
    advantages = jnp.asarray(values, jnp.float32).reshape(1, -1, 1)
    return np.asarray(compiled(n)(advantages, jnp.ones(advantages.shape, bool)))[0]


@functools.cache
def compiled(n):
    return jax.jit(partial(max_variance_subset, samples=n, final_samples=n))


@pytest.mark.parametrize("n", [1, 5, 11])
def test_no_subset_of_the_size_varies_more(n):
    """The oracle tries every split; `test_ends_beat_every_other_subset` says that these are enough."""
    rng = np.random.default_rng(n)
    for values in (rng.normal(size=12), rng.choice([-1.0, 0.0, 2.0], 12), rng.exponential(size=12)):
        kept = keep(n, values)
        assert kept.sum() == n
        assert np.var(values[kept]) == pytest.approx(oracle.largest_variance(list(values), n), rel=1e-5, abs=1e-6)


def test_ties_go_to_the_upper_end_and_there_to_the_first():
    """i = 0, 1, 2, 3 of 3 have variance 0, 2/9, 2/9, 0 on 0, 0, 0, 1, 1, 1: i = 1, one upper and two lower."""
    assert keep(3, [1, 0, 1, 0, 1, 0]).tolist() == [True, False, False, True, False, True]


def test_token_advantages_count_by_their_mean_and_missing_completions_not_at_all():
    """Means 0, 5, 2, and one that is masked and one that is not valid. Two of three are to stay: 0 and 5."""
    advantages = jnp.array([[[-3.0, 3.0], [1.0, 9.0], [2.0, jnp.nan], [jnp.nan, jnp.nan], [99.0, 99.0]]])
    mask = jnp.array([[[True, True], [True, True], [True, False], [False, False], [True, True]]])
    valid = jnp.array([[True, True, True, True, False]])
    method = jax.jit(partial(max_variance_subset, samples=2))
    assert method(advantages, mask, valid).tolist() == [[True, True, False, False, False]]
    assert jax.jit(max_variance_subset)(advantages, mask, valid).tolist() == [[True, True, True, False, False]]


def test_the_number_goes_from_one_to_the_other():
    """4, round(4 + 0.3 * 6) = 6, 10 of 12."""
    advantages = jnp.arange(12.0).reshape(3, 4, 1)
    method = jax.jit(partial(max_variance_subset, samples=4, final_samples=10))
    for progress, n in ((0.0, 4), (0.3, 6), (1.0, 10)):
        assert method(advantages, advantages >= 0, None, jnp.float32(progress)).sum() == n


def test_over_shards():
    fields, spec = assemble(0), PartitionSpec("data")
    arrays = [fields[n] for n in ("advantages", "mask", "valid")]
    method = partial(max_variance_subset, samples=5)
    sharded = jax.shard_map(partial(method, axis_name="data"), mesh=mesh(), in_specs=spec, out_specs=spec)
    result = np.asarray(jax.jit(sharded)(*arrays))
    np.testing.assert_array_equal(result, jax.jit(method)(*arrays))
    assert result.sum() == 5


def test_no_sample_is_refused():
    with pytest.raises(ConfigError, match="samples = 0"):
        keep(0, [1, 2])
