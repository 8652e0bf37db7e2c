import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import kimi_length_reward
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(kimi_length_reward)


def test_hand_numbers():
    """The wrong one of middle length loses nothing and gains nothing; the missing one is the group's longest."""
    rewards, lengths = jnp.array([[1.0, 0.0, 1.0, 0.0, jnp.nan]]), jnp.array([[20, 10, 30, 25, 90]])
    result = METHOD(rewards, lengths, jnp.array([[True] * 4 + [False]]))
    np.testing.assert_allclose(result[0], [0, 0, -0.5, -0.25, 0], atol=1e-7)


def test_equal_lengths_and_a_group_of_one_give_zero():
    rewards, lengths = jnp.ones((2, 3)), jnp.array([[5, 5, 5], [1, 2, 3]])
    valid = jnp.array([[True] * 3, [False, True, False]])
    np.testing.assert_array_equal(METHOD(rewards, lengths, valid), np.zeros((2, 3)))
    gradient = jax.grad(lambda r: jnp.sum(METHOD(r, lengths, valid)))(rewards)
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_oracle():
    for seed in range(2):
        fields = assemble(seed)
        lengths = jnp.sum(fields["mask"], axis=2)
        arrays = fields["rewards"], lengths, fields["valid"]
        np.testing.assert_allclose(METHOD(*arrays), oracle.kimi(*map(np.asarray, arrays)), rtol=1e-6, atol=1e-7)
