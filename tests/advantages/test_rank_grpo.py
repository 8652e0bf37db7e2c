import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import rank_grpo
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "segment_ids", "item_rewards", "finished", "mask", "valid"
RANK = jax.jit(rank_grpo, static_argnames="shaping")


def test_hand_numbers():
    """Two items: exact and finished, one too many, one too few and cut off."""
    ids = jnp.array([[[0, 1, 1], [0, 1, 2], [0, 0, -1]]])
    rewards = jnp.array([[[1.0, 0.5], [0.0, 0.5], [0.0, 0.5]]])
    finished, mask = jnp.array([[True, True, False]]), ids >= 0
    result = np.asarray(RANK(ids, rewards, finished, mask)[0])
    first = np.array([2 / 3, -1 / 3, -1 / 3]) / (3**-0.5 + 1e-4)
    np.testing.assert_allclose(result[:, 0], first, rtol=1e-5)
    np.testing.assert_allclose(result[:, 1:], [[0, 0.1], [0, -0.1], [first[2], 0]], rtol=1e-5)
    assert (RANK(ids, rewards, finished, mask, shaping=0.0)[0, :2, 2] == 0).all()


@pytest.mark.parametrize("shaping", [0.1, 0.0])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, shaping):
    """With fewer rewards than the lists have items, so that some tokens are beyond."""
    fields = assemble(seed)
    ids, rewards, finished, mask, valid = (np.asarray(fields[name]) for name in NAMES)
    rewards = rewards[:, :, :2]
    expected = oracle.rank_grpo(ids, rewards, finished, mask, valid, shaping=shaping)
    result = RANK(ids, rewards, finished, mask, valid, shaping=shaping)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
