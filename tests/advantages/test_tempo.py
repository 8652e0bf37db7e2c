import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_tok.advantages import grpo, tempo
from tests.conformance.fields import assemble
from tests.kernels.jaxpr_shapes import shapes
from tests.oracles import advantages as oracle

# Compiled once for all examples.
GRPO = jax.jit(grpo)
TEMPO = jax.jit(tempo, static_argnames=("use_std", "eps"))


def test_hand_numbers():
    """`a b` right, `a c` wrong: the first token is shared, so all credit beyond GRPO's lies on the second."""
    arrays = jnp.array([[[1, 2], [1, 3]]]), jnp.array([[1.0, 0.0]]), jnp.ones((1, 2, 2), bool)
    np.testing.assert_array_equal(TEMPO(*arrays, use_std=False), [[[0.5, 1.0], [-0.5, -1.0]]])
    std = 0.5**0.5
    np.testing.assert_allclose(TEMPO(*arrays), [[[0.5 / std, 1 / std], [-0.5 / std, -1 / std]]], rtol=1e-5)


@pytest.mark.parametrize("use_std", [True, False])
@pytest.mark.parametrize("seed", range(6))
def test_oracle(seed, use_std):
    fields = assemble(seed)
    arrays = [fields[name] for name in ("tokens", "rewards", "mask", "valid")]
    expected = oracle.tempo(*map(np.asarray, arrays), eps=1e-4, use_std=use_std)
    result = TEMPO(*arrays, eps=1e-4, use_std=use_std)
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def group(seed, tokens):
    rng = np.random.default_rng(seed)
    rewards = jnp.asarray(rng.choice([0.0, 0.5, 1.0], (3, 4)), jnp.float32)
    mask = jnp.asarray(np.arange(6) < rng.integers(1, 7, (3, 4, 1)))
    return jnp.asarray(tokens(rng), jnp.int32), rewards, mask


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_without_a_branch_it_is_grpo(seed):
    tokens, rewards, mask = group(seed, lambda rng: np.broadcast_to(rng.integers(0, 9, (3, 1, 6)), (3, 4, 6)))
    mask = jnp.broadcast_to(mask[:, :1], mask.shape)
    np.testing.assert_allclose(TEMPO(tokens, rewards, mask), GRPO(rewards, mask), rtol=1e-6)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_all_different_from_the_first_token_doubles_that_token(seed):
    tokens, rewards, mask = group(seed, lambda rng: np.arange(72).reshape(3, 4, 6))
    base = GRPO(rewards, mask)
    result = TEMPO(tokens, rewards, mask)
    np.testing.assert_allclose(result[..., 0], 2 * base[..., 0], rtol=1e-6)
    np.testing.assert_allclose(result[..., 1:], base[..., 1:], rtol=1e-6)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_what_is_beyond_grpo_sums_to_the_leaf_minus_the_root(seed):
    """For a completion that no other equals, the leaf's value is its own reward: one more GRPO advantage."""
    tokens, rewards, _ = group(seed, lambda rng: rng.integers(0, 2, (3, 4, 6)))
    tokens = tokens.at[..., 5].set(jnp.arange(4))  # all differ in the end
    mask = jnp.ones((3, 4, 6), bool)
    base = GRPO(rewards, mask)
    beyond = jnp.sum(TEMPO(tokens, rewards, mask) - base, axis=2)
    np.testing.assert_allclose(beyond, base[..., 0], rtol=1e-4, atol=1e-5)


def test_no_array_has_two_group_axes_and_tokens():
    shape = (3, 11, 101)
    tokens, mask = jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)
    jaxpr = jax.make_jaxpr(tempo)(tokens, jnp.zeros(shape[:2], jnp.float32), mask)
    assert {name for name, size in shapes(jaxpr) if math.prod(size) >= 3 * 11 * 11 * 101} == set()
