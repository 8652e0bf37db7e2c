import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import capo_rewards

REWARDS = jax.jit(capo_rewards, static_argnames=("outcome_weight", "process_weight", "vote"))


def test_hand_numbers():
    """The second step of the right answer is wrong to both critics, the first one to one of them only."""
    wrong = jnp.array([[[[True, True], [False, True]], [[True, False], [True, False]]]])
    arrays = jnp.array([[1.0, 0.0]]), jnp.array([[[0, 1, -1], [0, 1, 1]]]), wrong, jnp.ones((1, 2, 3), bool)
    np.testing.assert_array_equal(REWARDS(*arrays), [[[2, 1, 2], [-1, 0, 0]]])
    result = REWARDS(*arrays, outcome_weight=1.0, process_weight=0.5, vote="union")
    np.testing.assert_array_equal(result, [[[0.5, 0.5, 1], [-0.5, 0, 0]]])
    assert (REWARDS(*arrays, jnp.array([[True, False]]))[0, 1] == 0).all()
