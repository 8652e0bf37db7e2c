import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import boundary_segments


def test_hand_numbers():
    """A boundary on a masked token starts nothing."""
    boundaries = jnp.array([[[False, True, False, True, True, False]]])
    mask = jnp.array([[[True, True, True, False, True, True]]])
    np.testing.assert_array_equal(boundary_segments(boundaries, mask), [[[-1, 0, 0, -1, 1, 1]]])
