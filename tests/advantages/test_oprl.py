import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import oprl
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "step_rewards", "step_mask", "mask", "valid"
OPRL = jax.jit(oprl, static_argnames=("step_weight", "as_released", "singleton"))


def test_hand_numbers():
    """Steps 1, 2 and 0: the first gets 1 - (2 + 0) / 2. Released: 2 (1 - mean of the first steps 1 and 0)."""
    steps = jnp.array([[[1.0, 2.0], [0.0, 5.0]]]), jnp.array([[[True, True], [True, False]]])
    arrays = jnp.array([[1.0, 0.0]]), jnp.array([[[0, 1], [0, -1]]]), *steps, jnp.ones((1, 2, 2), bool)
    np.testing.assert_array_equal(OPRL(*arrays), [[[1 + 0, 1 + 1.5], [-1 - 1.5, -1]]])
    np.testing.assert_array_equal(OPRL(*arrays, as_released=True), [[[1 + 1, 1 + 3], [-1 - 1, -1]]])


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, as_released):
    fields = assemble(seed)
    arrays = rewards, ids, steps, exists, mask, valid = [np.asarray(fields[name]) for name in NAMES]
    exists = exists & valid[:, :, None]
    episode = oracle.by_completion(oracle.relative, rewards, valid, others=True)
    of_steps = (oracle.first_steps if as_released else oracle.other_steps)(steps, exists)
    expected = np.where(mask, episode[:, :, None], 0) + 0.5 * oracle.to_tokens(ids, of_steps, mask, valid)
    result = OPRL(*arrays, step_weight=0.5, as_released=as_released)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("as_released", [False, True])
def test_alone_it_is_zero_or_the_rewards_themselves(as_released):
    arrays = jnp.array([[3.0]]), jnp.array([[[0, -1]]]), jnp.array([[[2.0]]]), jnp.ones((1, 1, 1), bool)
    arrays += (jnp.ones((1, 1, 2), bool),)
    np.testing.assert_array_equal(OPRL(*arrays, as_released=as_released)[0, 0], [0, 0])
    np.testing.assert_array_equal(OPRL(*arrays, as_released=as_released, singleton="raw")[0, 0], [5, 3])


@pytest.mark.parametrize("as_released", [False, True])
def test_equal_rewards_of_episodes_and_steps_give_exactly_zero(as_released):
    fields = assemble(0)
    equal = {"rewards": jnp.full((4, 4), 0.9), "step_rewards": jnp.full((4, 4, 3), 0.1)}
    result = OPRL(*((fields | equal)[name] for name in NAMES), as_released=as_released)
    np.testing.assert_array_equal(result, np.zeros(result.shape))
