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


@pytest.fixture(params=sorted(ADVANTAGES))
def advantage(request):
    return bind(ADVANTAGES, request.param)


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
    grads = data.gradient(advantage, spoilt, "rewards")
    np.testing.assert_array_equal(grads, data.gradient(advantage, fields, "rewards"))
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


@pytest.mark.parametrize("reward", [0.0, 0.1, 0.9, -1e6])
@pytest.mark.parametrize("group", [2, 3, 32])
def test_equal_rewards_give_exactly_zero(advantage, reward, group):
    fields = {
        "tokens": jnp.arange(2 * group * 3, dtype=jnp.int32).reshape(2, group, 3),
        "mask": jnp.ones((2, group, 3), bool),
        "rewards": jnp.full((2, group), reward, jnp.float32),
        "valid": jnp.ones((2, group), bool).at[0, 0].set(False),
    }
    fields["rewards"] = fields["rewards"].at[0, 0].set(5.0)  # not valid, so the group is still constant
    advantage = jax.jit(advantage)
    np.testing.assert_array_equal(advantage(fields), np.zeros((2, group, 3)))
    assert np.isfinite(data.gradient(advantage, fields, "rewards")).all()


def test_group_of_one_gives_zero_and_an_empty_group_too(advantage):
    fields = data.assemble(0)
    fields["valid"] = jnp.zeros((data.P, data.G), bool).at[0, 0].set(True)
    np.testing.assert_array_equal(advantage(fields), np.zeros((data.P, data.G, data.T)))
    assert np.isfinite(data.gradient(advantage, fields, "rewards")).all()


@pytest.mark.parametrize("name", sorted(ADVANTAGES))
def test_raw_singleton_gives_the_reward(name):
    fields = data.assemble(0) | {"rewards": jnp.full((data.P, data.G), 0.5)}
    fields["valid"] = jnp.zeros((data.P, data.G), bool).at[0, 0].set(True)
    result = bind(ADVANTAGES, name, singleton="raw")(fields)
    expected = jnp.where(fields["mask"] & fields["valid"][:, :, None], jnp.float32(0.5), 0)
    data.close(result, expected)


def test_jit_and_sharding_over_prompts_change_nothing(advantage):
    fields = data.assemble(1)
    expected = advantage(fields)
    data.close(jax.jit(advantage)(fields), expected)
    data.close(jax.jit(advantage)(data.shard(fields)), expected)


def test_runs_inside_shard_map(advantage):
    fields = data.assemble(1)
    spec = PartitionSpec("data")
    local = jax.shard_map(advantage, mesh=data.mesh(), in_specs=(spec,), out_specs=spec)
    data.close(jax.jit(local)(fields), advantage(fields))


def test_runs_on_a_mesh_with_explicit_axes(advantage):
    fields = data.assemble(1)
    expected = advantage(fields)
    mesh = data.mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        sharded = jax.device_put(fields, NamedSharding(mesh, PartitionSpec("data")))
        data.close(jax.jit(advantage)(sharded), expected)


def test_second_call_compiles_nothing(advantage):
    assert data.traces(advantage, data.assemble(0), data.assemble(1)) == 1
