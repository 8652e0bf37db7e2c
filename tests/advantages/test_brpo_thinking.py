import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import brpo_thinking
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "segment_ids", "budget_rewards", "mask", "valid"
PRIORS = {"uniform": [1, 1, 1], "linear": [1, 2, 3], "last": [0, 0, 1]}
BRPO = jax.jit(brpo_thinking, static_argnames=("prior", "baseline", "singleton"))


def test_hand_numbers():
    """Budgets of probability 1/2; right at both, or at the second only: returns (1, 1/2) and (1/2, 1/2).

    At the second budget the own baseline is half the earlier reward, and stands in for half of the group's 1/2.
    """
    rewards = jnp.array([[[[1.0], [1.0]], [[0.0], [1.0]]]])
    result = BRPO(jnp.array([[[0, 1, -1], [0, 1, -1]]]), rewards, jnp.ones((1, 2, 3), bool))
    np.testing.assert_allclose(result, [[[0.25, 0.0, 0], [-0.25, 0.25, 0]]], atol=1e-7)


def test_a_masked_token_inside_a_segment_gets_zero():
    rewards = jnp.array([[[[1.0], [1.0]], [[0.0], [1.0]]]])
    mask = jnp.array([[[True, False, True], [False, True, True]]])
    result = BRPO(jnp.array([[[0, 0, 1], [0, 0, 1]]]), rewards, mask)
    np.testing.assert_allclose(result, [[[0.25, 0, 0], [0, -0.25, 0.25]]], atol=1e-7)


@pytest.mark.parametrize(("prior", "baseline"), [("uniform", "brpo"), ("linear", "v2only"), ("last", "none")])
@pytest.mark.parametrize("seed", range(2))
def test_oracle(seed, prior, baseline):
    fields = assemble(seed)
    arrays = ids, rewards, mask, valid = [np.asarray(fields[name]) for name in NAMES]
    numbers = np.zeros(rewards.shape[:3])
    for p in range(4):
        numbers[p, valid[p]] = oracle.brpo(rewards[p, valid[p]], PRIORS[prior], baseline=baseline)
    expected = oracle.to_tokens(ids, numbers, mask, valid)
    np.testing.assert_allclose(BRPO(*arrays, prior=prior, baseline=baseline), expected, rtol=1e-5, atol=1e-6)


def test_alone_it_has_its_own_return_as_the_groups_or_none():
    arrays = jnp.array([[[0, 1]]]), jnp.array([[[[1.0], [0.0]]]]), jnp.ones((1, 1, 2), bool)
    np.testing.assert_allclose(BRPO(*arrays)[0, 0], [0, -0.25])  # ret (1/2, 0), v1 (0, 1/2)
    np.testing.assert_allclose(BRPO(*arrays, singleton="raw")[0, 0], [0.5, -0.25])


@pytest.mark.parametrize("baseline", ["brpo", "v1only", "v2only"])
def test_equal_rewards_give_exactly_zero_where_there_is_a_baseline(baseline):
    fields = assemble(0) | {"budget_rewards": jnp.full((4, 4, 3, 2), 0.9)}
    result = np.asarray(BRPO(*(fields[name] for name in NAMES), prior="linear", baseline=baseline))
    first = np.asarray(fields["mask"] & (fields["segment_ids"] == 0)) & (baseline == "v1only")
    assert (result[~first] == 0).all()
    np.testing.assert_allclose(result[first], 0.9, rtol=1e-6)
