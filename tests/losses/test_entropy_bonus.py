import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import entropy_bonus


def test_hand_numbers():
    result = entropy_bonus(jnp.array([[0.5, 2.0, jnp.nan]]), jnp.array([[True, True, False]]))
    np.testing.assert_array_equal(result, [[-0.5, -2.0, 0.0]])
