import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import tree_values
from tests.oracles import structures as oracle

VALUES = jax.jit(tree_values, static_argnames="average")


def random_trees(seed, trees=3, nodes=9):
    """Each node under a random earlier one, the last ones padding; some leaves without a reward."""
    rng = np.random.default_rng(seed)
    parents = np.array([[-1] + [rng.integers(0, n) for n in range(1, nodes)] for _ in range(trees)], np.int32)
    parents[0, 7:] = -2
    rewards = rng.choice([0.0, 0.3, 1.0, np.nan], (trees, nodes), p=[0.3, 0.2, 0.3, 0.2]).astype(np.float32)
    return parents, rewards


@pytest.mark.parametrize("average", ["children", "leaves"])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, average):
    parents, rewards = random_trees(seed)
    result = VALUES(parents, rewards, average=average)
    for p in range(3):
        values = [oracle.tree_value(parents[p], rewards[p], n, average) or 0.0 for n in range(9)]
        values = [0.0 if parent == -2 else v for parent, v in zip(parents[p], values, strict=True)]
        counts = [0 if parents[p, n] == -2 else len(oracle.leaves(parents[p], rewards[p], n)) for n in range(9)]
        np.testing.assert_allclose(result.values[p], values, rtol=1e-6)
        np.testing.assert_array_equal(result.leaves[p], counts)


def test_the_two_averages_differ_where_subtrees_have_different_numbers_of_leaves():
    parents, rewards = jnp.array([[-1, 0, 0, 1, 1]]), jnp.array([[jnp.nan, jnp.nan, 1.0, 0.0, 0.0]])
    assert VALUES(parents, rewards).values[0, 0] == 0.5
    assert VALUES(parents, rewards, average="leaves").values[0, 0] == pytest.approx(1 / 3)


def test_where_all_children_have_one_value_so_has_the_parent_to_the_last_bit():
    """The float32 mean of seven times 0.9 is another number."""
    parents, rewards = jnp.array([[-1] + [0] * 7]), jnp.full((1, 8), 0.9)
    for average in ("children", "leaves"):
        np.testing.assert_array_equal(VALUES(parents, rewards, average=average).values, rewards)


def test_gradient_is_the_share_of_each_leaf():
    parents, rewards = jnp.array([[-1, 0, 0, 1, 1]]), jnp.array([[0.0, 0.0, 0.25, 0.5, jnp.nan]])
    gradient = jax.grad(lambda r: VALUES(parents, r).values[0, 0])(rewards)
    np.testing.assert_allclose(gradient, [[0, 0, 0.5, 0.5, 0]], atol=1e-7)  # the leaf without a reward counts nowhere
