import jax
import numpy as np
import pytest

from jaxrl_tok.scores import tree_edge_advantages
from tests.oracles import structures as oracle
from tests.scores.test_tree_values import random_trees

EDGES = jax.jit(tree_edge_advantages, static_argnames="scale")


@pytest.mark.parametrize("scale", ["none", "siblings"])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, scale):
    parents, rewards = random_trees(seed)
    result = EDGES(parents, rewards, scale=scale)
    for p in range(3):
        expected = oracle.edges(parents[p], rewards[p], siblings=scale == "siblings")
        np.testing.assert_allclose(result[p], expected, rtol=1e-4, atol=1e-6)
