import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import gae
from jaxrl_tok.advantages.gae import returns
from tests.conformance.fields import assemble
from tests.oracles import advantages as trees
from tests.oracles import outcomes as oracle

METHOD = jax.jit(gae, static_argnames=("gamma", "lam", "holes", "whitening"))


def test_hand_numbers():
    """Differences 1 + 4 - 2 = 3 and 3 - 4 = -1; A = 3 - 1/2 and -1."""
    arrays = jnp.array([[[1.0, 3.0]]]), jnp.array([[[2.0, 4.0]]]), jnp.ones((1, 1, 2), bool)
    np.testing.assert_array_equal(METHOD(*arrays, lam=0.5, whitening="off")[0, 0], [2.5, -1])
    np.testing.assert_allclose(METHOD(*arrays, lam=0.5)[0, 0], [0.5**0.5, -(0.5**0.5)], rtol=1e-6)


@pytest.mark.parametrize("holes", ["skip", "zero"])
@pytest.mark.parametrize("whitening", ["verl", "openrlhf"])
def test_oracle(holes, whitening):
    fields = assemble(0)
    arrays = [fields[name] for name in ("token_rewards", "values", "mask", "valid")]
    options = {"gamma": 0.9, "lam": 0.8, "holes": holes}
    raw, _ = oracle.gae(*map(np.asarray, arrays), **options)
    expected = oracle.whiten(raw, *map(np.asarray, arrays[2:]), whitening)
    np.testing.assert_allclose(METHOD(*arrays, **options, whitening=whitening), expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("holes", ["skip", "zero"])
def test_the_critics_targets_are_advantages_before_whitening_and_values(holes):
    fields = assemble(0)
    arrays = [fields[name] for name in ("token_rewards", "values", "tokens", "rewards", "mask", "valid")]
    options = {"gamma": 0.9, "lam": 0.8, "holes": holes}
    _, expected = oracle.gae(*map(np.asarray, (*arrays[:2], *arrays[4:])), **options)
    np.testing.assert_allclose(jax.jit(functools.partial(returns, **options))(*arrays), expected, rtol=1e-5, atol=2e-6)


def test_or_the_mean_reward_of_completions_with_the_same_beginning():
    fields = assemble(0)
    arrays = [fields[name] for name in ("token_rewards", "values", "tokens", "rewards", "mask", "valid")]
    found = jax.jit(functools.partial(returns, target="prefix_tree"))(*arrays)
    expected = trees.prefix_tree_values(*map(np.asarray, arrays[2:]))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
