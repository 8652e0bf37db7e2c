import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from jaxrl_tok.advantages import grpo
from tests.conformance.fields import assemble, mesh
from tests.oracles import advantages as oracle

REWARDS = st.lists(st.integers(-8, 8).map(lambda x: x / 4), min_size=4, max_size=4)
PURE = jax.jit(lambda rewards, mask: grpo(rewards, mask, eps=0.0))


def test_hand_numbers():
    result = grpo(jnp.array([[1.0, 0.0, 0.0, 0.0]]), jnp.ones((1, 4, 2), bool))
    np.testing.assert_allclose(result[0, :, 0], [1.5, -0.5, -0.5, -0.5], rtol=1e-5)  # std 1/2, plus eps
    np.testing.assert_array_equal(result[:, :, 0], result[:, :, 1])


@pytest.mark.parametrize("singleton", ["zero", "raw"])
@pytest.mark.parametrize("seed", range(4))
def test_oracle(seed, singleton):
    fields = assemble(seed)
    rewards, mask, valid = (fields[name] for name in ("rewards", "mask", "valid"))
    arrays = map(np.asarray, (rewards, mask, valid))
    expected = oracle.group_relative(*arrays, divide_by_std=True, eps=1e-4, singleton=singleton)
    np.testing.assert_allclose(grpo(rewards, mask, valid, eps=1e-4, singleton=singleton), expected, rtol=1e-5)


def test_batch_scale_divides_by_the_spread_of_all_rewards():
    rewards = jnp.array([[1.0, 0.0], [0.5, 0.5], [jnp.nan, 3.0], [1.0, 2.0]])
    valid = ~jnp.isnan(rewards)
    result = grpo(rewards, jnp.ones((4, 2, 1), bool), valid, scale="batch", eps=0.0)[..., 0]
    std = np.nanstd(np.asarray(rewards), ddof=1)
    expected = np.array([[0.5, -0.5], [0, 0], [0, 0], [-0.5, 0.5]]) / std
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_batch_scale_in_shard_map_takes_an_axis_name():
    fields = assemble(0)
    arrays = tuple(fields[name] for name in ("rewards", "mask", "valid"))
    spec = PartitionSpec("data")

    def sharded(axis_name):
        method = jax.shard_map(
            lambda *a: grpo(*a, scale="batch", axis_name=axis_name),
            mesh=mesh(),
            in_specs=spec,
            out_specs=spec,
        )
        return jax.jit(method)(*arrays)

    expected = grpo(*arrays, scale="batch")
    np.testing.assert_allclose(sharded("data"), expected, rtol=1e-5)
    assert not np.allclose(sharded(None), expected)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rewards=REWARDS, shift=st.integers(-16, 16), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_shift_and_scale_of_the_rewards_change_nothing(rewards, shift, factor):
    """Up to eps, which is why it is 0 here; sixteenths add and scale exactly."""
    mask = jnp.ones((1, 4, 1), bool)
    base = jnp.array([rewards])
    moved = base * factor + shift / 4
    np.testing.assert_allclose(PURE(moved, mask), PURE(base, mask), rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(rewards=REWARDS)
def test_group_has_mean_zero_and_spread_one(rewards):
    result = np.asarray(PURE(jnp.array([rewards]), jnp.ones((1, 4, 1), bool)))
    assert abs(result.sum()) < 1e-5
    assert np.std(result, ddof=1) == pytest.approx(0 if len(set(rewards)) == 1 else 1, abs=1e-5)
