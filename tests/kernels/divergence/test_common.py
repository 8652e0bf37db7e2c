import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels.divergence.common import DIVERGENCES, Terms, difference, excess, over_mixture, terms

# Log ratios from none to what leaves no digit of the smaller probability, of either sign.
RATIOS = np.concatenate([[0], np.logspace(-7, 2, 91), -np.logspace(-7, 2, 91), [0.1, -0.1, 1.0, -1.0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_functions_of_a_ratio_keep_their_digits(dtype):
    with jax.enable_x64(dtype == np.float64):
        d = RATIOS.astype(dtype)
        wide = d.astype(np.longdouble)
        p, q = np.longdouble(0.25), np.longdouble(0.25) * np.exp(-wide)
        ok = q < 1
        given = np.full_like(d, 0.25), np.where(ok, q, 1).astype(dtype), np.where(ok, d, 0)
        # Beyond the series the three terms of the excess cancel to no less than 1 / 200 of the largest.
        eps = np.finfo(dtype).eps
        for f, want, digits in (
            (excess, p * (wide + np.expm1(-wide)), 400),
            (difference, -p * np.expm1(-wide), 8),
        ):
            got = np.asarray(f(*map(jnp.asarray, given)), np.longdouble)
            if f is excess:  # whose formula loses digits, too, where its series has them
                series = p * wide**2 * (1 / 2 - wide / 6 + wide**2 / 24 - wide**3 / 120)
                want = np.where(np.abs(wide) < 1e-4, series, want)
            error = np.abs(got - want)[ok]
            assert (error <= digits * eps * np.abs(want)[ok]).all()
        for weight in (0.1, 0.5, 0.9):
            got = np.asarray(over_mixture(jnp.asarray(d), weight), np.longdouble)
            want = -np.log1p(np.longdouble(weight) * np.expm1(-wide))
            # The compiler's float64 log1p is off by 40 units in the last place at -0.4.
            assert (np.abs(got - want) <= 64 * eps * np.abs(want)).all()


def test_no_term_is_negative_or_nan_whatever_the_two_log_probs():
    values = np.float32([0, -1e-7, -0.1, -1, -20, -90, -200, -1e30])
    logp, logr = (x.reshape(1, -1) for x in np.meshgrid(values, values))
    names = tuple(name for name in Terms._fields if name != "sign")
    for name, x in terms(jnp.asarray(logp), jnp.asarray(logr), names, 0.3).items():
        assert (np.asarray(x) >= 0).all(), name
        assert np.isfinite(np.asarray(x)[(logp > -1e3) & (logr > -1e3)]).all(), name


def test_every_divergence_names_fields_of_the_sums():
    assert {field for fields in DIVERGENCES.values() for field in fields} == set(Terms._fields)
