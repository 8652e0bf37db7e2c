import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import capo
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "wrong_steps", "mask", "valid"
CAPO = jax.jit(capo, static_argnames=("process_weight", "vote"))


def test_hand_numbers():
    """Rewards 2, 1, 0, 0 of the tokens: mean 3/4, variance 11/12."""
    wrong = jnp.array([[[[False, True]], [[False, False]]]])
    result = CAPO(jnp.array([[1.0, 0.0]]), jnp.array([[[0, 1], [0, 1]]]), wrong, jnp.ones((1, 2, 2), bool))
    np.testing.assert_allclose(result[0].ravel(), np.array([1.25, 0.25, -0.75, -0.75]) / (11 / 12) ** 0.5, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = assemble(seed)
    rewards, ids, wrong, mask, valid = (np.asarray(fields[name]) for name in NAMES)
    values = oracle.capo_rewards(rewards, ids, wrong.all(axis=2), mask, valid)
    expected = oracle.over_group_tokens(values, mask, valid, 1e-6)
    np.testing.assert_allclose(CAPO(rewards, ids, wrong, mask, valid), expected, rtol=1e-5, atol=1e-6)


def test_equal_rewards_without_a_wrong_step_give_exactly_zero():
    fields = assemble(0) | {"rewards": jnp.full((4, 4), 0.9), "wrong_steps": jnp.zeros((4, 4, 2, 3), bool)}
    result = CAPO(*(fields[name] for name in NAMES))
    np.testing.assert_array_equal(result, np.zeros(result.shape))
