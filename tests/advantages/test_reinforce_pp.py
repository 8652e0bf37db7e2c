import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import reinforce_pp
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(reinforce_pp, static_argnames=("gamma", "as_released"))


def test_hand_numbers():
    """Returns 1, 1, 4: mean 2, variance 3."""
    result = METHOD(jnp.array([[1.0, 4.0]]), jnp.array([[[True, True], [True, False]]]))
    np.testing.assert_allclose(result[0], np.array([[-1, -1], [2, 0]]) / 3**0.5, rtol=1e-6)


def test_the_released_code_tells_nothing_of_the_outcome_to_tokens_before_a_hole():
    rewards, mask = jnp.array([[1.0]]), jnp.array([[[True, False, True]]])
    np.testing.assert_array_equal(METHOD(rewards, mask), np.zeros((1, 1, 3)))
    result = METHOD(rewards, mask, as_released=True)  # returns 0 and 1
    np.testing.assert_allclose(result[0, 0], np.array([-1, 0, 1]) * 0.5**0.5, rtol=1e-6)


@pytest.mark.parametrize(("as_released", "holes"), [(False, "discount"), (True, "reset")])
def test_oracle(as_released, holes):
    fields = assemble(0)
    arrays = [fields[name] for name in ("rewards", "mask", "valid", "token_rewards")]
    _, mask, valid, token_rewards = map(np.asarray, arrays)
    returns = oracle.reward_to_go(token_rewards, mask, valid, gamma=0.9, holes=holes)
    expected = oracle.whiten(returns, mask, valid)
    np.testing.assert_allclose(METHOD(*arrays, gamma=0.9, as_released=as_released), expected, rtol=1e-5, atol=2e-6)
