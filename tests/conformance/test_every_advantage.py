"""What every advantage must do, whatever its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrl_tok.advantages import ADVANTAGES
from jaxrl_tok.config.bind import bind
from tests.conformance import fields as data

SEEDS = range(3)


@pytest.fixture(params=sorted(ADVANTAGES), scope="module")
def advantage(request):
    return data.Jitted(bind(ADVANTAGES, request.param))


@pytest.mark.parametrize("seed", SEEDS)
def test_masked_tokens_and_missing_completions_get_zero_and_others_something(advantage, seed):
    fields = data.assemble(seed)
    result = np.asarray(advantage(fields))
    assert (result[~np.asarray(fields["mask"])] == 0).all()
    assert np.any(result != 0)
    fields["mask"] = jnp.ones_like(fields["mask"])
    assert (np.asarray(advantage(fields))[~np.asarray(fields["valid"])] == 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_values_under_the_mask_do_not_matter(advantage, seed):
    fields = data.assemble(seed)
    spoilt = data.spoil(fields)
    np.testing.assert_array_equal(advantage(spoilt), advantage(fields))
    grads = advantage.gradient(spoilt, "rewards")
    np.testing.assert_array_equal(grads, advantage.gradient(fields, "rewards"))
    assert np.isfinite(grads).all()


def test_valid_may_be_left_out_when_all_are(advantage):
    fields = data.assemble(0) | {"valid": jnp.ones((data.P, data.G), bool)}
    without = {name: x for name, x in fields.items() if name != "valid"}
    data.close(advantage(without), advantage(fields))


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_a_group_does_not_matter(advantage, seed):
    fields = data.assemble(seed)
    order = np.random.default_rng(seed).permutation(data.G)
    data.close(advantage({name: x[:, order] for name, x in fields.items()}), advantage(fields)[:, order])


def test_equal_rewards_give_exactly_zero(advantage):
    """A reward for each prompt, groups of 2, 3 and 32."""
    values = jnp.repeat(jnp.array([0.0, 0.1, 0.9, -1e6]), 3)[:, None]
    valid = jnp.arange(32)[None] < jnp.tile(jnp.array([2, 3, 32]), 4)[:, None]
    fields = {
        "tokens": jnp.arange(12 * 32 * 2, dtype=jnp.int32).reshape(12, 32, 2),
        "mask": jnp.ones((12, 32, 2), bool),
        "rewards": jnp.where(valid, values, 5.0),
        "valid": valid,
    }
    np.testing.assert_array_equal(advantage(fields), np.zeros((12, 32, 2)))
    assert np.isfinite(advantage.gradient(fields, "rewards")).all()


def test_group_of_one_gives_zero_and_an_empty_group_too(advantage):
    fields = data.assemble(0)
    fields["valid"] = jnp.zeros((data.P, data.G), bool).at[0, 0].set(True)
    np.testing.assert_array_equal(advantage(fields), np.zeros((data.P, data.G, data.T)))
    assert np.isfinite(advantage.gradient(fields, "rewards")).all()


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_raw_singleton_gives_the_reward(name):
    fields = data.assemble(0) | {"rewards": jnp.full((data.P, data.G), 0.5)}
    fields["valid"] = jnp.zeros((data.P, data.G), bool).at[0, 0].set(True)
    result = jax.jit(bind(ADVANTAGES, name, singleton="raw"))(fields)
    expected = jnp.where(fields["mask"] & fields["valid"][:, :, None], jnp.float32(0.5), 0)
    data.close(result, expected)


def test_jit_and_sharding_over_prompts_change_nothing(advantage):
    fields = data.assemble(1)
    expected = advantage.bound(fields)
    data.close(advantage(fields), expected)
    data.close(advantage(data.shard(fields)), expected)


def test_runs_inside_shard_map(advantage):
    fields = data.assemble(1)
    spec = PartitionSpec("data")
    local = jax.shard_map(advantage.bound, mesh=data.mesh(), in_specs=(spec,), out_specs=spec)
    data.close(jax.jit(local)(fields), advantage(fields))


def test_runs_on_a_mesh_with_explicit_axes(advantage):
    fields = data.assemble(1)
    expected = advantage(fields)
    mesh = data.mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(fields, NamedSharding(mesh, PartitionSpec("data")))
        data.close(advantage(sharded), expected)


def test_second_call_compiles_nothing(advantage):
    assert advantage.traces_of_a_second_call(data.assemble(0), data.assemble(1)) == 0
