import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import tree_rl
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "node_ids", "node_parents", "node_rewards", "mask", "valid"
TREE = jax.jit(tree_rl, static_argnames=("as_released", "norm", "weighted", "use_state_value"))


def test_hand_numbers():
    """Leaves 1, 0 under one node and 1 beside it: V(root) = 2/3, V(node) = 1/2; two leaves share the node's tokens."""
    parents, rewards = jnp.array([[-1, 0, 0, 1, 1]]), jnp.array([[9.0, 9.0, 1.0, 1.0, 0.0]])
    ids = jnp.array([[[1, 3], [1, 4], [2, -1]]])
    result = TREE(ids, parents, rewards, jnp.ones((1, 3, 2), bool))
    inner = (-1 / 6 - 1 / 6) / 2**0.5
    np.testing.assert_allclose(result, [[[inner, 5 / 6], [inner, -7 / 6], [2 / 3, 0]]], rtol=1e-5)
    mask = jnp.array([[[True, False], [False, True], [True, True]]])
    np.testing.assert_array_equal(TREE(ids, parents, rewards, mask), jnp.where(mask, result, 0))


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = assemble(seed)
    arrays = ids, parents, rewards, mask, valid = [np.asarray(fields[name]) for name in NAMES]
    numbers = [[oracle.tree_rl(parents[p], rewards[p])] * 4 for p in range(4)]
    expected = oracle.to_tokens(ids, numbers, mask, valid)
    np.testing.assert_allclose(TREE(*arrays), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{}, {"norm": "step", "weighted": False}, {"norm": "none", "use_state_value": False}], ids=str
)
def test_as_released_counts_the_tokens_of_a_node_once(options):
    fields = assemble(1)
    arrays = ids, parents, rewards, mask, valid = [np.asarray(fields[name]) for name in NAMES]
    numbers = []
    for p in range(4):
        lengths = [max(int(((ids[p, g] == n) & mask[p, g]).sum()) for g in range(4)) for n in range(7)]
        numbers.append([oracle.tree_rl_released(parents[p], rewards[p], lengths, **options)] * 4)
    expected = oracle.to_tokens(ids, numbers, mask, valid)
    np.testing.assert_allclose(TREE(*arrays, as_released=True, **options), expected, rtol=1e-5, atol=1e-6)
