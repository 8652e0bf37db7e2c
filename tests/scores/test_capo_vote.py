import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import capo_vote

VERDICTS = jnp.array(
    [[True, True, True, False], [True, True, False, False], [True, False, False, False], [True, False, False, False]]
)


@pytest.mark.parametrize(
    ("vote", "expected"), [("intersection", [1, 0, 0, 0]), ("majority", [1, 0, 0, 0]), ("union", [1, 1, 1, 0])]
)
def test_hand_numbers(vote, expected):
    """Two of four are no majority; two of three are."""
    np.testing.assert_array_equal(capo_vote(VERDICTS[None, None], vote=vote)[0, 0], expected)
    if vote == "majority":
        np.testing.assert_array_equal(capo_vote(VERDICTS[None, None, :3], vote=vote)[0, 0], [1, 1, 0, 0])
