import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import brpo_summary

SUMMARY = jax.jit(brpo_summary)


def test_hand_numbers():
    """Against the siblings; with one summary each, against the group at that budget."""
    scores = jnp.array([[[[1.0, 0.0, 0.0, 1.0]], [[1.0, 1.0, 1.0, 0.0]]]])
    np.testing.assert_array_equal(SUMMARY(scores)[0, :, 0], [[0.5, -0.5, -0.5, 0.5], [0.25, 0.25, 0.25, -0.75]])
    one = scores[:, :, :, :1].at[0, 1].set(0.0)
    np.testing.assert_array_equal(SUMMARY(one)[0, :, 0, 0], [0.5, -0.5])


def test_missing_completions_and_equal_rewards():
    scores = jnp.full((1, 3, 2, 1), 0.9).at[0, 2].set(jnp.nan)
    np.testing.assert_array_equal(SUMMARY(scores, jnp.array([[True, True, False]])), np.zeros((1, 3, 2, 1)))
