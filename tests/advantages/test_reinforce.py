import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import reinforce
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(reinforce, static_argnames=("gamma", "whitening"))


def test_hand_numbers():
    rewards, mask = jnp.array([[1.0, 2.0]]), jnp.array([[[True, True, True], [True, True, False]]])
    np.testing.assert_array_equal(METHOD(rewards, mask, gamma=0.5), [[[0.25, 0.5, 1], [1, 2, 0]]])


@pytest.mark.parametrize("whitening", ["off", "verl", "openrlhf"])
def test_oracle(whitening):
    fields = assemble(0)
    arrays = [fields[name] for name in ("rewards", "mask", "valid", "token_rewards")]
    _, mask, valid, token_rewards = map(np.asarray, arrays)
    expected = oracle.reward_to_go(token_rewards, mask, valid, gamma=0.9)
    if whitening != "off":
        expected = oracle.whiten(expected, mask, valid, whitening)
    np.testing.assert_allclose(METHOD(*arrays, gamma=0.9, whitening=whitening), expected, rtol=1e-5, atol=2e-6)
