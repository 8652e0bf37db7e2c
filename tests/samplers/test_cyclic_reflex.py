import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers import cyclic_reflex
from tests.oracles import samplers as oracle


def waves(count, amplitude, period):
    """The bias at each of the first positions."""
    method = jax.jit(functools.partial(cyclic_reflex, ids=(1,), amplitude=amplitude, period=period))
    return np.asarray(method(jnp.zeros((count, 3)), jnp.arange(count), jnp.ones(count, bool)))


@pytest.mark.parametrize(("amplitude", "period"), [(5.0, 1200), (2.5, 7), (-1.0, 4), (3.0, 1), (3.0, 2)])
def test_oracle_over_two_periods(amplitude, period):
    got = waves(2 * period, amplitude, period)
    positions = np.arange(2 * period)
    expected = oracle.cyclic_reflex(np.zeros((2 * period, 3)), positions, positions >= 0, (1,), amplitude, period)
    np.testing.assert_allclose(got, expected, atol=1e-6 * abs(amplitude))


@pytest.mark.parametrize("period", [1200, 600, 7, 3])
def test_the_mean_over_a_period_is_0(period):
    bias = waves(period, 5.0, period)[:, 1]
    assert abs(bias.astype(np.float64).mean()) < 1e-6
    assert bias.max() == pytest.approx(5, abs=20 / period)


def test_rows_that_no_longer_think_are_left_alone():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 6)).astype(np.float32)
    positions, thinking = np.array([300, 300, 900, 0, 75], np.int32), np.array([True, False, True, True, True])
    got = cyclic_reflex(jnp.asarray(logits), jnp.asarray(positions), jnp.asarray(thinking), ids=(2, 0, 2))
    np.testing.assert_allclose(got, oracle.cyclic_reflex(logits, positions, thinking, (0, 2), 5.0, 1200), rtol=1e-6)
    np.testing.assert_array_equal(got[1], logits[1])
    assert got[0, 2] == logits[0, 2] + 5 and got[2, 2] == logits[2, 2] - 5


def test_the_wave_is_exact_however_far_it_has_gone():
    far = jnp.array([1200 * 1_000_000 + 301])
    got = cyclic_reflex(jnp.zeros((1, 2)), far, jnp.array([True]), ids=(0,))
    np.testing.assert_allclose(got[0], [5 * (1 - 1 / 300), 0], rtol=1e-6)


@pytest.mark.parametrize("period", [0, -1])
def test_a_period_that_is_none(period):
    with pytest.raises(ConfigError, match=f"period = {period} must be a number of tokens"):
        cyclic_reflex(jnp.zeros((1, 2)), jnp.zeros(1, jnp.int32), jnp.ones(1, bool), period=period)
