from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import hapo
from jaxrl_tok.clips.hapo import prepare
from jaxrl_tok.errors import ConfigError

H = jnp.array([[0.0, 0.5, -0.5, 1.0, -1.0, jnp.nan]])
MASK = jnp.array([[True] * 5 + [False]])


def test_certain_tokens_may_lose_more_and_uncertain_ones_gain_more():
    low, high = jax.jit(partial(hapo, high=1.28))(H, MASK)
    np.testing.assert_allclose(low, [[0.8, 0.8, 0.7, 0.8, 0.6, 0.8]], rtol=1e-6)
    np.testing.assert_allclose(high, [[1.28, 1.42, 1.28, 1.56, 1.28, 1.28]], rtol=1e-6)


def test_prepared_from_the_trained_tokens_of_the_whole_minibatch():
    """Logs -2, -1, 0, 1, 3: the 0.8 quantile is the fourth; the others are 3, 2, 1 below it and 2 above."""
    entropy = jnp.exp(jnp.array([[-2.0, -1.0, 0.0], [1.0, 3.0, 0.0]]))
    mask = jnp.array([[True, True, True], [True, True, False]])
    expected = [[-1, -2 / 3, -1 / 3], [0, 1, 0]]
    for under_the_mask in (jnp.nan, 1e4):
        h = jax.jit(prepare)(entropy.at[1, 2].set(under_the_mask), mask)
        np.testing.assert_allclose(h, expected, rtol=1e-6, atol=1e-6)


def test_alpha_scales_the_widening():
    low, high = jax.jit(partial(hapo, alpha=0.5))(H, MASK)
    np.testing.assert_allclose(low[0, 4], 0.7, rtol=1e-6)
    np.testing.assert_allclose(high[0, 3], 1.3, rtol=1e-6)


@pytest.mark.parametrize("options", [{"low": 0.2, "high": 0.28}, {"alpha": 2.0}])
def test_an_epsilon_for_a_bound_is_refused(options):
    with pytest.raises(ConfigError, match="bound the ratio and must have 1 between them"):
        hapo(H, MASK, **options)
