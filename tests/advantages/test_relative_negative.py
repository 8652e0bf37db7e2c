import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import relative_negative


def test_hand_numbers():
    advantages, mask = jnp.array([[[2.0, -1.0, jnp.nan], [-3.0, 0.0, 1.0]]]), jnp.array([[[True, True, False]] * 2])
    np.testing.assert_array_equal(relative_negative(advantages, mask), [[[0, -1, 0], [-3, 0, 0]]])
    valid = jnp.array([[True, False]])
    np.testing.assert_array_equal(relative_negative(advantages, mask, valid), [[[0, -1, 0], [0, 0, 0]]])
