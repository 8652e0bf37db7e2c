import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import vine_ppo
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "state_values", "mask", "valid"
RAW = jax.jit(lambda *arrays: vine_ppo(*arrays, whitening="off"))
WHITE = jax.jit(vine_ppo)


def test_hand_numbers():
    """Two steps, values 0.3 and 0.5, then right: gains 0.2 and 0.5. What stands behind the last step is not read."""
    arrays = jnp.ones((1, 1)), jnp.array([[[0, 0, 1, -1]]]), jnp.array([[[0.3, 0.5, 9.0, 9.0]]])
    result = RAW(*arrays, jnp.ones((1, 1, 4), bool))
    np.testing.assert_allclose(result[0, 0], [0.2, 0.2, 0.5, 0.0], rtol=1e-6)


def test_a_step_whose_value_was_not_estimated_gets_nothing():
    arrays = jnp.ones((1, 1)), jnp.array([[[0, 1, 2]]]), jnp.array([[[0.25, jnp.nan, 0.5, 0.0]]])
    np.testing.assert_array_equal(RAW(*arrays, jnp.ones((1, 1, 3), bool))[0, 0], [0.25, 0.0, 0.5])


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = assemble(seed)
    arrays = [fields[name] for name in NAMES]
    expected = oracle.vine_ppo(*map(np.asarray, arrays))
    np.testing.assert_allclose(RAW(*arrays), expected, rtol=1e-5, atol=1e-6)
    mask = np.asarray(fields["mask"] & fields["valid"][:, :, None])
    np.testing.assert_allclose(WHITE(*arrays), oracle.whiten(expected, mask, mask), rtol=1e-4, atol=1e-5)


def test_tokens_outside_of_steps_get_zero_and_are_not_whitened_over():
    ids = jnp.array([[[0, 1, -1, -1]], [[0, 1, 2, -1]]])
    values, rewards = jnp.array([[[0.0, 0.5, 0.0, 0.0]], [[0.5, 0.75, 0.5, 0.0]]]), jnp.ones((2, 1))
    mask = jnp.ones((2, 1, 4), bool)
    result = np.asarray(WHITE(rewards, ids, values, mask))
    assert (result[ids == -1] == 0).all()
    np.testing.assert_allclose(result, WHITE(rewards, ids, values, mask & (ids >= 0)), rtol=1e-6)


def test_an_id_beyond_the_steps_is_outside_of_them():
    """Two steps, ids 0 and 1; 2 and 3 are as good as -1."""
    values, rewards, mask = jnp.array([[[0.25, 0.5, 9.0]]]), jnp.ones((1, 1)), jnp.ones((1, 1, 4), bool)
    beyond, outside = jnp.array([[[0, 1, 2, 3]]]), jnp.array([[[0, 1, -1, -1]]])
    np.testing.assert_array_equal(RAW(rewards, beyond, values, mask), [[[0.25, 0.5, 0, 0]]])
    np.testing.assert_array_equal(WHITE(rewards, beyond, values, mask), WHITE(rewards, outside, values, mask))
