import jax
import numpy as np
import pytest

from jaxrl_tok.scores import tree_rl_rewards
from tests.oracles import structures as oracle
from tests.scores.test_tree_values import random_trees

REWARDS = jax.jit(tree_rl_rewards, static_argnames=("as_released", "norm", "weighted", "use_state_value"))
FORMS = [{}, {"norm": "step", "weighted": False}, {"norm": "none", "use_state_value": False}]


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    parents, rewards = random_trees(seed)
    result = REWARDS(parents, rewards).rewards
    for p in range(3):
        np.testing.assert_allclose(result[p], oracle.tree_rl(parents[p], rewards[p]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_released_form(options):
    parents, rewards = random_trees(0)
    lengths = np.random.default_rng(0).integers(1, 9, parents.shape).astype(np.float32)
    result = REWARDS(parents, rewards, lengths, as_released=True, **options).rewards
    for p in range(3):
        expected = oracle.tree_rl_released(parents[p], rewards[p], lengths[p].tolist(), **options)
        np.testing.assert_allclose(result[p], expected, rtol=1e-4, atol=1e-5)


def test_one_leaf_and_equal_rewards_give_exactly_zero():
    parents, rewards = np.array([[-1, 0, -2], [-1, 0, 0]], np.int32), np.full((2, 3), 0.9, np.float32)
    for released in (False, True):
        result = REWARDS(parents, rewards, np.ones_like(rewards), as_released=released).rewards
        np.testing.assert_array_equal(result, np.zeros((2, 3)))
