from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import group_divergence
from tests.oracles import weights as oracle


@pytest.mark.parametrize("as_released", [False, True])
def test_oracle(as_released):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 6, (2, 3, 4, 5))  # some differences are clipped
    logprobs = logits - np.log(np.exp(logits).sum(axis=3, keepdims=True))
    mask = rng.random((2, 3, 4)) < 0.7
    valid = np.array([[True, True, False], [True, True, True]])
    spoilt = np.where(mask[..., None], logprobs, np.nan)
    method = jax.jit(partial(group_divergence, as_released=as_released))
    result = method(jnp.asarray(spoilt, jnp.float32), jnp.asarray(mask), jnp.asarray(valid))
    expected = oracle.group_divergence(logprobs, mask, valid, as_released)
    np.testing.assert_allclose(result, expected, rtol=1e-4)  # exp(11) magnifies the rounding of log-probs


def test_two_coins_by_hand():
    """Their log-probs differ from their mean by +-d, d = log(4) / 2: each of four terms is cosh(d) - 1 on average."""
    logprobs = jnp.log(jnp.array([[[[0.2, 0.8]], [[0.8, 0.2]], [[0.5, 0.5]]]]))
    mask = jnp.array([[[True], [True], [False]]])
    expected = 2 * (np.cosh(np.log(4) / 2) - 1)
    np.testing.assert_allclose(jax.jit(group_divergence)(logprobs, mask), [[expected]], rtol=1e-6)


def test_one_completion_or_none_gives_zero():
    logprobs = jnp.log(jnp.array([[[[0.2, 0.8], [0.6, 0.4]], [[0.8, 0.2], [0.5, 0.5]]]]))
    mask = jnp.array([[[True, False], [False, False]]])
    np.testing.assert_array_equal(jax.jit(group_divergence)(logprobs, mask), [[0, 0]])
