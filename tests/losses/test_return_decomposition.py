import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import return_decomposition


def test_hand_numbers():
    """Sums of 3 and 5 where 1 and 5 are due, over 2 tokens; a row without a token, one that is not valid."""
    proxy = jnp.array([[1.0, 2.0, jnp.nan], [5.0, 0.0, 0.0], [jnp.nan] * 3, [1.0, 1.0, 1.0]])
    mask = jnp.array([[True, True, False], [True, True, True], [False] * 3, [True] * 3])
    rewards, valid = jnp.array([1.0, 5.0, 3.0, jnp.nan]), jnp.array([True, True, True, False])
    np.testing.assert_allclose(return_decomposition(proxy, rewards, mask, valid), [1, 0, 0, 0])
    grads = jax.jit(jax.grad(lambda x: jnp.sum(return_decomposition(x, rewards, mask, valid))))(proxy)
    np.testing.assert_allclose(grads, [[1, 1, 0], [0] * 3, [0] * 3, [0] * 3])
