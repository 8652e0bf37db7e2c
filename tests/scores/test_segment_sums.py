import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import segment_sums


def test_hand_numbers():
    """Segments need not be contiguous; the third does not exist, and what is masked does not matter."""
    numbers = jnp.array([[[1.0, 2.0, 4.0, 8.0, 16.0, jnp.nan]]])
    ids, mask = jnp.array([[[0, 1, 0, 2, -1, 1]]]), jnp.array([[[True] * 5 + [False]]])
    exists = jnp.array([[[True, True, False, True]]])
    np.testing.assert_array_equal(segment_sums(numbers, ids, exists, mask), [[[5, 2, 0, 0]]])
