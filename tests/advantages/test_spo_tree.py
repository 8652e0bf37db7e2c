import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import spo_tree
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "node_ids", "node_parents", "node_rewards", "mask", "valid"
TREE = jax.jit(spo_tree, static_argnames="scale")


def test_hand_numbers():
    """A right and a wrong leaf under one node, a right one beside it: values 3/4, 1/2, 1."""
    parents, rewards = jnp.array([[-1, 0, 0, 1, 1]]), jnp.array([[9.0, 9.0, 1.0, 1.0, 0.0]])
    ids = jnp.array([[[1, 3], [1, 4], [2, -1]]])
    result = TREE(ids, parents, rewards, jnp.ones((1, 3, 2), bool))
    np.testing.assert_array_equal(result, [[[-0.25, 0.5], [-0.25, -0.5], [0.25, 0.0]]])
    mask = jnp.array([[[True, False], [False, True], [True, True]]])
    np.testing.assert_array_equal(TREE(ids, parents, rewards, mask), jnp.where(mask, result, 0))
    scaled = TREE(ids, parents, rewards, jnp.ones((1, 3, 2), bool), scale="siblings")
    np.testing.assert_allclose(scaled, np.sign(result), rtol=1e-6)  # of two siblings each is one std from the mean


@pytest.mark.parametrize("scale", ["none", "siblings"])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, scale):
    fields = assemble(seed)
    ids, parents, rewards, mask, valid = (np.asarray(fields[name]) for name in NAMES)
    numbers = [[oracle.edges(parents[p], rewards[p], siblings=scale == "siblings")] * 4 for p in range(4)]
    expected = oracle.to_tokens(ids, numbers, mask, valid)
    np.testing.assert_allclose(TREE(ids, parents, rewards, mask, valid, scale=scale), expected, rtol=1e-5, atol=1e-6)
