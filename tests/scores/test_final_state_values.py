import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import final_state_values


def test_hand_numbers():
    """Two segments, one (the second is masked), none."""
    ids = jnp.array([[[0, 1, -1], [0, 1, 1], [-1, -1, -1]]])
    mask = jnp.array([[[True] * 3, [True, False, False], [True] * 3]])
    result = final_state_values(
        jnp.array([[7.0, 8.0, 9.0]]), ids, jnp.full((1, 3, 4), jnp.nan).at[:, :, :2].set(0.5), mask
    )
    np.testing.assert_array_equal(result, [[[0.5, 0.5, 7, 7], [0.5, 8, 8, 8], [9, 9, 9, 9]]])
