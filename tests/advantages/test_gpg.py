import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import gpg
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(gpg, static_argnames="alpha")


def test_hand_numbers():
    """One group of two differs; one reward of four is not 0."""
    rewards, mask = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.ones((2, 2, 1), bool)
    np.testing.assert_array_equal(METHOD(rewards, mask)[..., 0], [[1, -1], [0, 0]])
    np.testing.assert_array_equal(METHOD(rewards, mask, alpha="verl")[..., 0], [[2, -2], [0, 0]])


def test_a_difference_within_rounding_is_none():
    rewards, mask = jnp.array([[1.0, 1.0 + 1e-6], [1.0, 0.0]]), jnp.ones((2, 2, 1), bool)
    np.testing.assert_array_equal(METHOD(rewards, mask)[1, :, 0], [1, -1])


@pytest.mark.parametrize("alpha", ["paper", "verl"])
def test_oracle(alpha):
    for seed in range(2):
        arrays = [assemble(seed)[name] for name in ("rewards", "mask", "valid")]
        rewards, mask, valid = map(np.asarray, arrays)
        centred = oracle.of_groups(rewards, mask, valid, oracle.centred)
        expected = oracle.per_token(centred, mask, valid) / oracle.gpg_share(rewards, valid, alpha)
        np.testing.assert_allclose(METHOD(*arrays, alpha=alpha), expected, rtol=2e-6, atol=1e-7)
