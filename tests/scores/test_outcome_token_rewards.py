import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import outcome_token_rewards
from jaxrl_tok.scores.outcome_token_rewards import ends

MASK = jnp.array([[[True, False, True, False], [False] * 4, [False, True, False, False]]])


def test_the_last_trained_token_has_the_reward():
    rewards, valid = jnp.array([[2.0, 3.0, jnp.nan]]), jnp.array([[True, True, False]])
    np.testing.assert_array_equal(outcome_token_rewards(rewards, MASK, valid)[0], [[0, 0, 2, 0], [0] * 4, [0] * 4])


def test_ends_of_rows_with_and_without_tokens():
    first, last = ends(MASK)
    assert np.argwhere(first).tolist() == [[0, 0, 0], [0, 2, 1]]
    assert np.argwhere(last).tolist() == [[0, 0, 2], [0, 2, 1]]
