import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_tok.advantages import dcpo_smooth
from jaxrl_tok.advantages.dcpo_smooth import init
from tests.conformance.fields import mesh
from tests.oracles import objectives as oracle

CALL = jax.jit(dcpo_smooth)
STEPS, PROMPTS = 6, 9


def batches(seed):
    """Groups of 4 prompts of 9, some of them twice in a batch, some without a second valid completion."""
    rng = np.random.default_rng(seed)
    for _ in range(STEPS):
        valid = rng.random((4, 3)) < 0.8
        rewards = np.where(valid, rng.choice([0.0, 0.25, 1.0], (4, 3)), np.nan).astype(np.float32)
        yield rewards, rng.integers(0, PROMPTS, 4).astype(np.int32), valid


def test_oracle_over_several_visits():
    for seed in range(2):
        state, history = init(num_prompts=PROMPTS), {}
        for rewards, ids, valid in batches(seed):
            result, state = CALL(state, rewards, ids, np.ones((4, 3, 1), bool), valid)
            expected, history = oracle.dcpo(history, rewards, ids, valid)
            np.testing.assert_allclose(result[..., 0], expected, rtol=1e-4, atol=1e-5)
        for prompt, visits in history.items():
            kept = [float(x[prompt]) for x in (state.mean, state.std, state.visits)]
            np.testing.assert_allclose(kept, [*oracle.pooled(visits), len(visits)], rtol=1e-4, atol=1e-5)
        assert max(map(len, history.values())) > 3


def test_hand_numbers_of_a_second_visit():
    """First {1, 0}, then {1, 1}: mean 3/4, variance (1/2 + 0) / 2 + (1/2)^2 / 4 = 5/16; z_n = 0 leaves half of z_c."""
    state = init(num_prompts=2)
    mask = jnp.ones((1, 2, 1), bool)
    first, state = CALL(state, jnp.array([[1.0, 0.0]]), jnp.array([1]), mask)
    np.testing.assert_allclose(first[0, :, 0], [2**-0.5, -(2**-0.5)], rtol=1e-6)
    second, state = CALL(state, jnp.array([[1.0, 1.0]]), jnp.array([1]), mask)
    np.testing.assert_allclose(second[0, :, 0], [0.25 / (5 / 16) ** 0.5 / 2] * 2, rtol=1e-5)
    np.testing.assert_allclose([state.mean[1], state.std[1]], [0.75, (5 / 16) ** 0.5], rtol=1e-6)
    assert state.visits.tolist() == [0, 2]


def test_rewards_that_never_differ_give_exactly_zero():
    """Their means are rounded, and a rounding is no spread."""
    state, mask = init(num_prompts=1), jnp.ones((1, 7, 1), bool)
    for _ in range(5):
        result, state = CALL(state, jnp.full((1, 7), 0.9), jnp.array([0]), mask)
        np.testing.assert_array_equal(result, np.zeros((1, 7, 1)))


def test_too_small_a_group_is_no_visit():
    state, valid = init(num_prompts=1), jnp.array([[True, False]])
    result, state = CALL(state, jnp.array([[1.0, jnp.nan]]), jnp.array([0]), jnp.ones((1, 2, 1), bool), valid)
    assert (float(state.visits[0]), float(state.mean[0])) == (0, 0)
    np.testing.assert_array_equal(result, np.zeros((1, 2, 1)))


@pytest.mark.parametrize("inside", [False, True])
def test_sharded_batches_update_one_table(inside):
    """Under jit on a mesh and inside shard_map, with one prompt on two shards."""
    spec, none = PartitionSpec("data"), PartitionSpec()
    call = CALL
    if inside:
        method = lambda *a: dcpo_smooth(*a, axis_name="data")  # noqa: E731
        call = jax.jit(jax.shard_map(method, mesh=mesh(), in_specs=(none, *[spec] * 4), out_specs=(spec, none)))
    plain, sharded = init(num_prompts=PROMPTS), init(num_prompts=PROMPTS)
    for rewards, ids, valid in batches(0):
        ids[3] = ids[0]
        arrays = rewards, ids, np.ones((4, 3, 2), bool), valid
        laid = [jax.device_put(x, NamedSharding(mesh(), spec)) for x in arrays]
        expected, plain = CALL(plain, *arrays)
        result, sharded = call(sharded, *laid)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(jax.tree.leaves(plain), jax.tree.leaves(sharded), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
