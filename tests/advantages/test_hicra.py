import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import hicra


def test_hand_numbers():
    """Praise and blame on a planning token, blame on another, a masked planning token."""
    advantages, planning = jnp.array([[[2.0, -2.0, -2.0, jnp.nan]]]), jnp.array([[[True, True, False, True]]])
    result = hicra(advantages, planning, ~jnp.isnan(advantages), alpha=0.25)
    np.testing.assert_array_equal(result[0, 0], [2.5, -1.5, -2, 0])
