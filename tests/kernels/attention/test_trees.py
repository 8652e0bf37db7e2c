import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_tok.errors import DataError
from jaxrl_tok.kernels.attention import star_tree, tree_from_parents
from tests.kernels.attention.cases import branches, random_trie


def test_two_tries_and_padding_by_hand():
    #         a  b  c  d(after b)  e(root) f  padding
    parents = np.array([-1, 0, 1, 1, -1, 4, -2, -2])
    ends, positions = tree_from_parents(parents)
    np.testing.assert_array_equal(ends, [4, 4, 3, 4, 6, 6, 0, 0])
    np.testing.assert_array_equal(positions, [0, 1, 2, 2, 0, 1, 0, 0])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(5, 60))
def test_ends_and_positions_are_those_of_the_paths(seed, size):
    parents = random_trie(np.random.default_rng(seed), size)
    ends, positions = tree_from_parents(parents)
    for token in range(size - 4):
        path, up = {token}, parents[token]
        while up >= 0:
            path.add(up)
            up = parents[up]
        assert path == {k for k in range(size) if k <= token < ends[k]}
        assert positions[token] == len(path) - 1
    np.testing.assert_array_equal(ends[-4:], 0)


@pytest.mark.parametrize("parents", [[-1, 2, 0], [-1, 0, 0, 1], [-1, -1, 0], [-1, -2, 0], [0]])
def test_other_orders_are_refused(parents):
    with pytest.raises(DataError, match="expected depth-first order"):
        tree_from_parents(np.array(parents))


def test_no_tokens():
    assert tree_from_parents(np.zeros(0, np.int32)).ends.shape == (0,)


def test_a_star_is_its_prompt_and_branches():
    prompts, lengths = [3, 1, 4], [[2, 0, 4], [1, 1, 1], [0, 0, 0]]
    got = jax.jit(star_tree, static_argnums=2)(jnp.array(prompts), jnp.array(lengths), 10)
    for row, (prompt, some) in enumerate(zip(prompts, lengths, strict=True)):
        parents = branches(prompt, [n for n in some if n])
        want = tree_from_parents(np.concatenate([parents, np.full(10 - len(parents), -2)]))
        np.testing.assert_array_equal(got.ends[row], want.ends)
        np.testing.assert_array_equal(got.positions[row], want.positions)


def test_a_star_that_does_not_fit_is_cut():
    np.testing.assert_array_equal(star_tree(jnp.array([3]), jnp.array([[2, 4]]), 7).ends, [[7, 7, 7, 5, 5, 7, 7]])
