import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import leaf_rewards


def test_by_hand():
    """Three completions, two of which end below node 1; the last of four has no token, the third no reward."""
    ids = jnp.array([[[1, 3], [1, 4], [2, -1], [2, -1]]], jnp.int32)
    mask = jnp.array([[[True, True], [True, True], [True, False], [False, False]]])
    parents = jnp.array([[-1, 0, 0, 1, 1]], jnp.int32)
    got = jax.jit(leaf_rewards)(jnp.array([[1.0, 0.5, 0.25, 9.0]]), ids, parents, mask)
    np.testing.assert_array_equal(got, [[np.nan, np.nan, 0.25, 1.0, 0.5]])
    got = jax.jit(leaf_rewards)(jnp.array([[1.0, 0.5, 0.25, 9.0]]), ids, parents, mask.at[0, 2].set(False))
    np.testing.assert_array_equal(got, [[np.nan, np.nan, np.nan, 1.0, 0.5]])
