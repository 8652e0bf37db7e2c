import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import spread


def test_hand_numbers():
    """Outside: a negative id, one beyond the last number, a masked token. Nobody asks for the NaN."""
    ids = jnp.array([[[0, 2, -1, 3, 0], [2, 2, -2, 0, 0]]])
    numbers, mask = (
        jnp.array([[[5.0, jnp.nan, 7.0], [1.0, jnp.nan, 2.0]]]),
        jnp.ones((1, 2, 5), bool).at[0, 0, 4].set(False),
    )
    np.testing.assert_array_equal(spread(ids, numbers, mask), [[[5, 7, 0, 0, 0], [2, 2, 0, 1, 1]]])


def test_numbers_of_the_prompt_go_to_all_of_its_completions():
    ids = jnp.array([[[0, 1], [1, 1]]])
    result = spread(ids, jnp.array([[[3.0, 4.0]]]), jnp.ones((1, 2, 2), bool))
    np.testing.assert_array_equal(result, [[[3, 4], [4, 4]]])
