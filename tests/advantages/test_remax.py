import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import remax
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(remax)


def test_hand_numbers():
    mask = jnp.array([[[True, True], [True, False]]])
    arrays = jnp.array([[1.0, 0.0]]), jnp.array([0.25]), mask
    np.testing.assert_array_equal(METHOD(*arrays), [[[0.75, 0.75], [-0.25, 0]]])
    token_rewards = jnp.array([[[-0.5, 1.0], [0.5, jnp.nan]]])
    np.testing.assert_array_equal(METHOD(*arrays, None, token_rewards), [[[0.25, 0.75], [0.25, 0]]])


def test_oracle():
    fields = assemble(0)
    arrays = [fields[name] for name in ("rewards", "greedy_rewards", "mask", "valid", "token_rewards")]
    _, greedy, mask, valid, token_rewards = map(np.asarray, arrays)
    expected = oracle.reward_to_go(token_rewards, mask, valid) - greedy[:, None, None]
    expected = np.where(oracle.trained(mask, valid), expected, 0)
    np.testing.assert_allclose(METHOD(*arrays), expected, rtol=1e-5, atol=1e-6)
