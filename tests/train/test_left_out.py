import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.train.left_out import log_rest, logits_left_out
from jaxrl_tok.types import LeftOut

RNG = np.random.default_rng(0)
HIDDEN, HEAD = RNG.normal(size=(2, 3, 4)).astype(np.float32), RNG.normal(size=(6, 4)).astype(np.float32)
HEAT = np.array([[1.0, 2.0, 0.5], [1.0, 1.0, 1.0]], np.float32)
VALID = np.array([[True, True, True], [True, False, True]])
PLACES = np.array([[0, 1, 2], [0, 1, 2]], np.int32)
LEFT = LeftOut((4,), (5, 4), 2)


@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("headless", [False, True])
def test_logits_of_the_tokens_that_are_left_out_and_of_no_others(cap, headless):
    raw = HIDDEN @ HEAD.T
    hidden = np.where(VALID[..., None], raw if headless else HIDDEN, np.nan)
    head = None if headless else jnp.asarray(HEAD)
    arrays = map(jnp.asarray, (HEAT, VALID, PLACES))
    got = logits_left_out(jnp.asarray(hidden), head, *arrays, LEFT, cap=cap)
    z = (raw if cap is None else cap * np.tanh(raw / cap)) * HEAT[..., None]
    wanted = np.stack([z[..., 4], np.where(PLACES < 2, z[..., 5], -np.inf)], axis=-1)
    np.testing.assert_allclose(got, np.where(VALID[..., None], wanted, -np.inf), rtol=1e-5)


def test_what_is_not_valid_has_no_slope():
    """It may be NaN, and neither it nor the head gets anything of it."""
    hidden = jnp.asarray(np.where(VALID[..., None], HIDDEN, np.nan))

    def total(hidden, head):
        logits = logits_left_out(hidden, head, *map(jnp.asarray, (HEAT, VALID, PLACES)), LEFT)
        return log_rest(logits, jnp.full(VALID.shape, 9.0)).sum()

    of_hidden, of_head = jax.grad(total, (0, 1))(hidden, jnp.asarray(HEAD))
    assert np.isfinite(of_head).all() and np.any(of_head[4]) and np.any(of_head[5]) and not np.any(of_head[:4])
    np.testing.assert_array_equal(np.any(np.asarray(of_hidden), axis=-1), VALID)


def test_the_rest_of_a_half_and_a_quarter_and_of_nothing():
    lse = jnp.zeros(4)
    parts = jnp.log(jnp.array([[0.5, 0.25], [0.5, 0.0], [0.0, 0.0], [1.0, 0.0]]))
    np.testing.assert_allclose(log_rest(parts, lse), np.log([0.25, 0.5, 1.0, 1e-6]), rtol=1e-2, atol=1e-7)
    np.testing.assert_allclose(log_rest(parts[:3], lse[:3]), np.log([0.25, 0.5, 1.0]), rtol=1e-6)
