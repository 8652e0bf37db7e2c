import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import max_rl
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(max_rl)


def test_hand_numbers():
    """One success of four: 1 / (1/4) - 1 and -1. A mean of -1 gives 0."""
    rewards = jnp.array([[1.0, 0.0, 0.0, 0.0], [-3.0, 1.0, -2.0, 0.0]])
    np.testing.assert_array_equal(METHOD(rewards, jnp.ones((2, 4, 1), bool))[..., 0], [[3, -1, -1, -1], [0] * 4])


def test_oracle():
    for seed in range(3):
        arrays = [assemble(seed)[name] for name in ("rewards", "mask", "valid")]
        rewards, mask, valid = map(np.asarray, arrays)
        expected = oracle.per_token(oracle.of_groups(rewards, mask, valid, oracle.max_rl), mask, valid)
        np.testing.assert_allclose(METHOD(*arrays), expected, rtol=2e-6)
