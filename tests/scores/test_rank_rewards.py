import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import rank_rewards


def test_hand_numbers():
    hits = jnp.array([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])
    second = 1 / np.log2(3)
    np.testing.assert_allclose(rank_rewards(hits), [[[1.5, 0.5, 0.5], [second, second, 0]]], rtol=1e-6)
