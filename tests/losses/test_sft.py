import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import sft


def test_negative_log_likelihood_of_trained_tokens():
    logprobs = jnp.array([[-1.0, -0.25, jnp.nan]])
    np.testing.assert_array_equal(sft(logprobs, jnp.array([[True, True, False]])), [[1.0, 0.25, 0.0]])
