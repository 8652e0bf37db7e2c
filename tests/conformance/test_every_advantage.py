"""What every advantage must do, whatever its formula."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxrl_tok.advantages import ADVANTAGES
from jaxrl_tok.config.bind import bind, companions
from tests.conformance import fields as data

SEEDS = range(2)
# Credit in other forms than the completions' rewards: there, equal rewards say nothing.
OTHER_REWARDS = {
    "reward_parts", "greedy_rewards", "token_rewards", "values", "state_values", "step_rewards", "wrong_steps",
    "item_rewards", "budget_rewards", "node_values", "node_rewards", "advantages",
}  # fmt: skip
# Relative to no group: equal rewards are credit.
ABSOLUTE = {
    "ada_grpo": "rewards of one value and several formats differ once they are scaled",
    "psr_nsr": "a right answer is 1 and a wrong one -1, whatever the others are",
    "reinforce": "the reward itself",
    "reinforce_pp": "relative to the batch",
    "spear_replay": "relative to earlier groups",
    "ucas": "the penalty on the token's logit stays",
}
# Hyperparameters that have no default.
REQUIRED = {"ucas": {"vocab_size": data.VOCABULARY}}
OUTCOMES = sorted(
    name
    for name, method in ADVANTAGES.items()
    if not OTHER_REWARDS & set(inspect.signature(method).parameters) and name not in ABSOLUTE
)
# With more than the reward in a group of one's advantage: tested beside the method.
MIXED = {"brpo_thinking", "gigpo", "hapo_group_average", "laser", "oprl", "reinforce_pp_baseline", "tempo", "ucas"}
RAW = sorted(n for n, method in ADVANTAGES.items() if "singleton" in inspect.signature(method).parameters)
# Across prompts nothing runs unannotated on a mesh with explicit axes.
WITHIN_PROMPTS = sorted(
    name
    for name, method in ADVANTAGES.items()
    if "axis_name" not in inspect.signature(method).parameters and not companions(method)
)


def jitted(name):
    return data.Jitted(bind(ADVANTAGES, name, **REQUIRED.get(name, {})))


@pytest.fixture(params=sorted(ADVANTAGES), scope="module")
def advantage(request):
    return jitted(request.param)


@pytest.fixture(params=OUTCOMES, scope="module")
def outcome(request):
    return jitted(request.param)


@pytest.mark.parametrize("seed", SEEDS)
def test_masked_tokens_and_missing_completions_get_zero_and_others_something(advantage, seed):
    fields = data.assemble(seed)
    result = np.asarray(advantage(fields))
    assert result.shape == (data.P, data.G, data.T) and result.dtype == np.float32
    assert np.isfinite(result).all()
    assert (result[~np.asarray(fields["mask"])] == 0).all()
    assert np.any(result != 0)
    fields["mask"] = jnp.ones_like(fields["mask"])
    assert (np.asarray(advantage(fields))[~np.asarray(fields["valid"])] == 0).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_values_under_the_mask_do_not_matter(advantage, seed):
    fields = data.assemble(seed)
    spoilt = data.spoil(fields)
    np.testing.assert_array_equal(advantage(spoilt), advantage(fields))
    expected = advantage.gradients(fields)
    for name, gradient in advantage.gradients(spoilt).items():
        assert np.isfinite(gradient).all(), name
        np.testing.assert_array_equal(gradient, expected[name], err_msg=name)


def test_valid_may_be_left_out_when_all_are(advantage):
    fields = data.assemble(0) | {"valid": jnp.ones((data.P, data.G), bool)}
    without = {name: x for name, x in fields.items() if name != "valid"}
    if "valid" not in advantage.needs:
        data.close(advantage(without), advantage(fields))


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_a_group_does_not_matter(advantage, seed):
    fields = data.assemble(seed)
    order = np.random.default_rng(seed).permutation(data.G)
    data.close(advantage(data.permuted(fields, order)), advantage(fields)[:, order])


def test_equal_rewards_give_exactly_zero(outcome):
    fields = data.assemble(1)
    for value in (0.0, 0.9, -1e6):
        rewards = jnp.where(fields["valid"], value * jnp.arange(1.0, data.P + 1)[:, None], 5.0)
        equal = fields | {"rewards": rewards.astype(jnp.float32)}
        np.testing.assert_array_equal(outcome(equal), np.zeros((data.P, data.G, data.T)))
        assert all(np.isfinite(gradient).all() for gradient in outcome.gradients(equal).values())


def test_group_of_one_gives_zero_and_an_empty_group_too(outcome):
    fields = data.assemble(0)
    fields["valid"] = jnp.zeros((data.P, data.G), bool).at[0, 0].set(True)
    np.testing.assert_array_equal(outcome(fields), np.zeros((data.P, data.G, data.T)))
    assert all(np.isfinite(gradient).all() for gradient in outcome.gradients(fields).values())


def test_a_batch_without_a_completion_gives_zeros(advantage):
    fields = data.assemble(0) | {"valid": jnp.zeros((data.P, data.G), bool)}
    fields["mask"] = jnp.zeros((data.P, data.G, data.T), bool)
    np.testing.assert_array_equal(advantage(fields), np.zeros((data.P, data.G, data.T)))


@pytest.mark.parametrize("name", sorted(set(RAW) - MIXED))
def test_raw_singleton_gives_the_reward(name):
    fields = data.assemble(0) | {"rewards": jnp.full((data.P, data.G), 0.5)}
    fields["valid"] = jnp.zeros((data.P, data.G), bool).at[0, 0].set(True)
    result = jax.jit(bind(ADVANTAGES, name, singleton="raw"))(fields)
    expected = jnp.where(fields["mask"] & fields["valid"][:, :, None], jnp.float32(0.5), 0)
    data.close(result, expected)


@pytest.mark.slow
def test_jit_changes_nothing(advantage):
    """Slow, as operations one by one are compiled one by one."""
    fields = data.assemble(1)
    data.close(advantage(fields), advantage.run(fields))


@pytest.mark.slow
def test_sharding_over_prompts_changes_nothing(advantage):
    fields = data.assemble(1)
    data.close(advantage(data.shard(fields)), advantage(fields))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {n for n in ADVANTAGES if companions(ADVANTAGES[n])}))
def test_runs_inside_shard_map(name):
    """Of the whole batch, where it is told the name of the axis."""
    method = jitted(name)
    across = {"axis_name": "data"} if "axis_name" in inspect.signature(ADVANTAGES[name]).parameters else {}
    fields = {key: x for key, x in data.assemble(1).items() if key in method.bound.takes}
    local = jax.shard_map(
        lambda fields: ADVANTAGES[name](**fields, **across, **REQUIRED.get(name, {})),
        mesh=data.mesh(),
        in_specs=(data.specs(fields),),
        out_specs=PartitionSpec("data"),
    )
    data.close(jax.jit(local)(fields), method(fields))


@pytest.mark.slow
@pytest.mark.parametrize("name", WITHIN_PROMPTS)
def test_runs_on_a_mesh_with_explicit_axes(name):
    method = jitted(name)
    fields = data.assemble(1)
    expected = method(fields)
    mesh = data.mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        places = {key: NamedSharding(mesh, spec) for key, spec in data.specs(fields).items()}
        data.close(method(jax.device_put(fields, places)), expected)


def test_second_call_compiles_nothing(advantage):
    assert advantage.traces_of_a_second_call(data.assemble(0), data.assemble(1)) == 0
