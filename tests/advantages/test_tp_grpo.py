import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import tp_grpo
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "wrong_steps", "mask", "valid"
TP = jax.jit(tp_grpo, static_argnames=("alpha", "vote"))


def test_hand_numbers():
    """One of two is right, so o = +-0.707 and a wrong thought of the right answer costs 1/2."""
    wrong = jnp.array([[[[True, False]], [[True, False]]]])
    ids = jnp.array([[[0, 1, -1], [0, 1, -1]]])
    result = TP(jnp.array([[1.0, 0.0]]), ids, wrong, jnp.ones((1, 2, 3), bool))
    o = 0.5**0.5
    np.testing.assert_allclose(result, [[[o - 0.5, o, o], [-o, 0, 0]]], rtol=1e-5)


@pytest.mark.parametrize("vote", ["intersection", "union"])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, vote):
    fields = assemble(seed)
    rewards, ids, wrong, mask, valid = (np.asarray(fields[name]) for name in NAMES)
    voted = (np.all if vote == "intersection" else np.any)(wrong, axis=2)
    expected = oracle.tp_grpo(rewards, ids, voted, mask, valid, alpha=0.25)
    result = TP(rewards, ids, wrong, mask, valid, alpha=0.25, vote=vote)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_where_all_are_right_a_wrong_thought_still_costs():
    wrong = jnp.array([[[[True, False]], [[False, False]]]])
    result = TP(jnp.ones((1, 2)), jnp.array([[[0, 1], [0, 1]]]), wrong, jnp.ones((1, 2, 2), bool))
    np.testing.assert_array_equal(result, [[[-1, 0], [0, 0]]])
