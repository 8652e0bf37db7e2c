import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.advantages import spear_replay
from jaxrl_tok.advantages.spear_replay import init
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import mesh

SPEAR = jax.jit(spear_replay, static_argnames=("record", "positive_only"))


def groups(*means):
    """Groups of two completions with these means; None is a group without a valid one."""
    rewards = jnp.array([[jnp.nan] * 2 if m is None else [m - 0.5, m + 0.5] for m in means])
    return rewards, jnp.ones((len(means), 2, 1), bool), ~jnp.isnan(rewards)


def test_the_baseline_is_the_median_of_the_last_means():
    """Three places: 0.1 and 0.3, then 0.9 and 0.5 push 0.1 out."""
    first, state = SPEAR(init(size=3), *groups(0.1, 0.3), positive_only=False)
    np.testing.assert_allclose(first[..., 0], np.array([[-0.4, 0.6], [-0.2, 0.8]]) - 0.2, atol=1e-6)
    second, state = SPEAR(state, *groups(0.9, None, 0.5))
    expected = np.maximum(np.array([[0.4, 1.4], [0, 0], [0, 1.0]]) - 0.5, 0)
    np.testing.assert_allclose(second[..., 0], np.where([[1], [0], [1]], expected, 0), atol=1e-6)
    assert sorted(np.asarray(state.means).tolist()) == pytest.approx([0.3, 0.5, 0.9])
    assert int(state.position) == 1


def test_replayed_groups_read_the_ring_and_leave_it():
    _, state = SPEAR(init(size=4), *groups(0.5))
    result, after = SPEAR(state, *groups(3.0), record=False)
    np.testing.assert_allclose(result[..., 0], [[2.0, 3.0]])
    np.testing.assert_array_equal(after.means, state.means)
    empty, _ = SPEAR(init(size=4), *groups(3.0), record=False)
    np.testing.assert_array_equal(empty, np.zeros((1, 2, 1)))


def test_of_more_groups_than_places_the_last_stay():
    _, state = SPEAR(init(size=2), *groups(0.1, 0.2, 0.3, 0.4, 0.5))
    assert sorted(np.asarray(state.means).tolist()) == pytest.approx([0.4, 0.5])


def test_in_shard_map_the_shards_write_behind_one_another():
    spec, none = PartitionSpec("data"), PartitionSpec()
    method = lambda *a: spear_replay(*a, axis_name="data")  # noqa: E731
    sharded = jax.jit(jax.shard_map(method, mesh=mesh(), in_specs=(none, spec, spec, spec), out_specs=(spec, none)))
    one, other = init(size=5), init(size=5)
    for means in ((0.1, None, 0.3, 0.4), (0.5, 0.6, 0.7, None)):
        expected, one = SPEAR(one, *groups(*means))
        result, other = sharded(other, *groups(*means))
        np.testing.assert_allclose(result, expected, atol=1e-6)
        np.testing.assert_array_equal(other.means, one.means)
        assert int(other.position) == int(one.position)


def test_a_ring_without_a_place_is_refused():
    with pytest.raises(ConfigError, match="size = 0 must be at least 1"):
        init(size=0)
