import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import gigpo
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "step_rewards", "step_mask", "step_states", "mask", "valid"
GIGPO = jax.jit(gigpo, static_argnames=("omega", "use_std", "singleton", "gamma"))


def test_hand_numbers():
    """Both start in one state, gamma 1/2: returns 1/2 and 0 there; then they part."""
    steps = jnp.array([[[0.0, 1.0], [0.0, 0.0]]]), jnp.ones((1, 2, 2), bool), jnp.array([[[5, 6], [5, 7]]])
    ids = jnp.array([[[0, 1], [0, 1]]])
    result = GIGPO(jnp.array([[1.0, 0.0]]), ids, *steps, jnp.ones((1, 2, 2), bool), gamma=0.5)
    np.testing.assert_array_equal(result, [[[0.75, 0.5], [-0.75, -0.5]]])


@pytest.mark.parametrize("use_std", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, use_std):
    fields = assemble(seed)
    arrays = rewards, ids, step_rewards, exists, states, mask, valid = [np.asarray(fields[name]) for name in NAMES]
    eps = 1e-6 if use_std else None
    exists = exists & valid[:, :, None]
    episode = oracle.by_completion(oracle.relative, rewards, valid, eps=eps)
    steps = oracle.anchor(oracle.step_returns(step_rewards, exists, 0.95), states, exists, eps=eps)
    expected = np.where(mask, episode[:, :, None], 0) + 0.5 * oracle.to_tokens(ids, steps, mask, valid)
    np.testing.assert_allclose(GIGPO(*arrays, omega=0.5, use_std=use_std), expected, rtol=2e-4, atol=1e-5)


def test_alone_a_trajectory_is_compared_with_its_own_visits():
    steps = jnp.array([[[2.0, 1.0]]]), jnp.ones((1, 1, 2), bool), jnp.array([[[3, 3]]])
    arrays = jnp.array([[4.0]]), jnp.array([[[0, 1, -1]]]), *steps, jnp.ones((1, 1, 3), bool)
    np.testing.assert_array_equal(GIGPO(*arrays, gamma=0.0)[0, 0], [0.5, -0.5, 0.0])
    np.testing.assert_array_equal(GIGPO(*arrays, gamma=0.0, singleton="raw")[0, 0], [4.5, 3.5, 4.0])
