import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import bnpo
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(bnpo)


def test_hand_numbers():
    """One group: the uniform density, so the centred rewards."""
    result = METHOD(jnp.array([[1.0, 0.0, 0.0, 0.0]]), jnp.ones((1, 4, 1), bool))
    np.testing.assert_allclose(result[0, :, 0], [0.75, -0.25, -0.25, -0.25], rtol=1e-6)


def test_all_right_and_all_wrong_groups_give_zero_beside_one_that_differs():
    rewards = jnp.array([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    result = METHOD(rewards, jnp.ones((3, 2, 1), bool))
    np.testing.assert_array_equal(result[:2], np.zeros((2, 2, 1)))
    assert result[2, 0, 0] > 0
    gradient = jax.jit(jax.grad(lambda r: jnp.sum(bnpo(r, jnp.ones((3, 2, 1), bool)))))(rewards)
    assert np.isfinite(gradient).all()


def test_oracle():
    for seed in range(4):
        arrays = [assemble(seed)[name] for name in ("rewards", "mask", "valid")]
        rewards, mask, valid = map(np.asarray, arrays)
        alpha, beta = oracle.beta_parameters(rewards, valid)

        def credit(*of_completion, alpha=alpha, beta=beta):
            return oracle.bnpo(*of_completion, alpha=alpha, beta=beta)

        expected = oracle.per_token(oracle.of_groups(rewards, mask, valid, credit), mask, valid)
        np.testing.assert_allclose(METHOD(*arrays), expected, rtol=2e-5, atol=1e-6)
