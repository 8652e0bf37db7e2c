import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import opo
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(opo, static_argnames="singleton")


def test_hand_numbers():
    """Lengths 1 and 3, rewards 1 and 0: the baseline is 1/4. A group of one gives its reward only when raw."""
    rewards = jnp.array([[1.0, 0.0], [2.0, jnp.nan]])
    mask = jnp.arange(3)[None, None] < jnp.array([[1, 3], [1, 0]])[:, :, None]
    valid = ~jnp.isnan(rewards)
    expected = np.array([[[0.75, 0, 0], [-0.25] * 3], [[0, 0, 0], [0, 0, 0]]])
    np.testing.assert_array_equal(METHOD(rewards, mask, valid), expected)
    expected[1, 0, 0] = 2
    np.testing.assert_array_equal(METHOD(rewards, mask, valid, singleton="raw"), expected)


def test_oracle():
    for seed in range(3):
        arrays = [assemble(seed)[name] for name in ("rewards", "mask", "valid")]
        rewards, mask, valid = map(np.asarray, arrays)
        expected = oracle.per_token(oracle.of_groups(rewards, mask, valid, oracle.opo), mask, valid)
        np.testing.assert_allclose(METHOD(*arrays), expected, rtol=2e-6, atol=1e-7)
