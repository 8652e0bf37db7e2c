import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import himac
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

HIMAC = jax.jit(himac)


def test_hand_numbers():
    """In a phase of plans the executor's part is equal, so its tokens get exactly 0."""
    parts = jnp.array([[[1.0, 0.9], [0.0, 0.9]]])
    planning = jnp.array([[[True, False], [True, False]]])
    result = HIMAC(parts, planning, jnp.ones((1, 2, 2), bool))
    np.testing.assert_allclose(result, [[[0.5**0.5, 0], [-(0.5**0.5), 0]]], rtol=1e-5)
    assert (result[:, :, 1] == 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = assemble(seed)
    arrays = parts, planning, mask, valid = [
        np.asarray(fields[name]) for name in ("reward_parts", "planning", "mask", "valid")
    ]
    macro, micro = (oracle.by_completion(oracle.relative, parts[..., i], valid, eps=1e-6) for i in range(2))
    expected = np.where(mask, np.where(planning, macro[:, :, None], micro[:, :, None]), 0)
    np.testing.assert_allclose(HIMAC(*arrays), expected, rtol=1e-5, atol=1e-6)


def test_there_are_two_parts():
    with pytest.raises(ConfigError, match="3 parts, expected 2"):
        himac(jnp.zeros((1, 2, 3)), jnp.zeros((1, 2, 4), bool), jnp.ones((1, 2, 4), bool))
