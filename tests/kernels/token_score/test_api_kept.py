import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels import kept_logprobs, token_score
from tests.kernels import oracle
from tests.kernels.token_score.cases import BACKENDS, Case, check_gradients, check_values

CASE = Case(per_row_temperature=True)
FILTERS = ("top_k", "min_p", "mixed", "none kept")


def thresholds_of(name, state):
    """Gives log-probs halfway between the last kept and the first dropped token, which may be the target."""
    z = state[0]
    logp = z - np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1, keepdims=True)) - z.max(axis=1)[:, None]
    ranked = -np.sort(-logp, axis=1)
    kept = {
        "top_k": np.full(len(z), 20),
        "min_p": (logp >= np.log(0.3) + ranked[:, :1]).sum(axis=1),
        "mixed": np.arange(1, len(z) + 1),
        "none kept": np.zeros(len(z), int),
    }[name]
    rows = np.arange(len(z))
    if name == "none kept":
        return np.full(len(z), np.inf)
    return (ranked[rows, kept - 1] + ranked[rows, kept]) / 2


@functools.partial(jax.jit, static_argnums=7)
def evaluate(hidden, head, targets, inv_temperature, thresholds, lse, cotangents, backend):
    """Gives the log-probs, and the gradients of hidden, head, thresholds and lse; without lse and with it."""
    found = []
    for given in (None, lse):

        def f(hidden, head, thresholds, lse, given=given):
            return kept_logprobs(
                hidden,
                head,
                targets,
                thresholds,
                None if given is None else lse,
                inv_temperature=inv_temperature,
                block=32,
                **BACKENDS[backend],
            )

        value, pull = jax.vjp(f, hidden, head, thresholds, lse)
        found.append((value, *pull(cotangents)))
    scores = token_score(hidden, head, targets, inv_temperature=inv_temperature, block=32, **BACKENDS[backend])
    return found, scores.logprobs


@pytest.mark.parametrize("backend", BACKENDS)
def test_values_and_gradients(backend):
    hidden, head, targets, inv_temperature, (cotangents, *_) = CASE.arrays()
    (_, _, lse), state = oracle.score(hidden, head, targets, inv_temperature)
    for name in FILTERS:
        thresholds = thresholds_of(name, state)
        (want, *_), kept_state = oracle.score(hidden, head, targets, inv_temperature, thresholds=thresholds)
        inputs = map(np.float32, (hidden, head))
        rest = inv_temperature, np.float32(thresholds), np.float32(lse), cotangents
        found, _ = evaluate(*inputs, targets, *rest, backend)
        zeros = np.zeros_like(cotangents)
        want_gradients = oracle.gradients(hidden, head, targets, kept_state, (cotangents, zeros, zeros))
        for value, d_hidden, d_head, d_thresholds, d_lse in found:
            check_values(CASE, value, want, state[0])
            check_gradients(CASE, (d_hidden, d_head), want_gradients, hidden, head, cotangents, state[0])
            np.testing.assert_array_equal(d_thresholds, 0)
            np.testing.assert_array_equal(d_lse, 0)
            assert (np.asarray(value) <= 0).all()
        if name == "none kept":
            np.testing.assert_array_equal(found[0][0], 0)
        else:
            assert np.abs(want - oracle.score(hidden, head, targets, inv_temperature)[0][0]).max() > 0.1


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_threshold_gives_the_log_probs_to_the_bit(backend):
    hidden, head, targets, inv_temperature, (cotangents, *_) = CASE.arrays()
    (_, _, lse), _ = oracle.score(hidden, head, targets, inv_temperature)
    thresholds = np.full(CASE.tokens, -np.inf, np.float32)
    rest = inv_temperature, thresholds, np.float32(lse), cotangents
    found, logprobs = evaluate(np.float32(hidden), np.float32(head), targets, *rest, backend)
    for value, *_ in found:
        np.testing.assert_array_equal(value, logprobs)
    assert np.abs(logprobs).max() > 1


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_may_hold_anything(backend):
    hidden, head, targets, inv_temperature, (cotangents, *_) = CASE.arrays()
    hidden, head, ignored = np.float32(hidden), np.float32(head), targets < 0
    thresholds, lse = np.full(CASE.tokens, -5, np.float32), np.full(CASE.tokens, 5, np.float32)
    clean, _ = evaluate(hidden, head, targets, inv_temperature, thresholds, lse, cotangents, backend)
    vectors = [np.where(ignored, np.float32(np.nan), x) for x in (inv_temperature, thresholds, lse, cotangents)]
    hidden = np.where(ignored[:, None], np.float32(np.nan), hidden)
    poisoned, _ = evaluate(hidden, head, targets, *vectors, backend)
    jax.tree.map(np.testing.assert_array_equal, poisoned, clean)
    np.testing.assert_array_equal(clean[0][0][ignored], 0)
    assert np.isfinite(clean[0][2]).all()


def test_by_hand():
    # p = 0.5, 0.3, 0.15, 0.05; the threshold keeps three, and the target beside them where it is the fourth.
    probs = np.asarray([0.5, 0.3, 0.15, 0.05])
    hidden = jnp.broadcast_to(jnp.float32(np.log(probs)), (4, 4))
    kept = jax.jit(functools.partial(kept_logprobs, head_layout="dv"))
    got = kept(hidden, jnp.eye(4), jnp.arange(4), jnp.full(4, jnp.log(0.1)))
    want = np.log([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0.05])
    np.testing.assert_allclose(got, want, rtol=2e-6)
