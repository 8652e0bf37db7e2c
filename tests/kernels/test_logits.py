"""Scores from logits are those of the functions with a head, here the identity: against float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import divergence, kept_logprobs, token_score
from jaxrl_tok.kernels.logits import kept_logit_score, logit_divergence, logit_score
from tests.kernels import oracle

ROWS, VOCAB = 7, 19
TARGETS = np.array([3, -1, 18, 0, 7, -1, 5], np.int32)
CAPS = (None, 2.0)


def draw(seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (ROWS, VOCAB)).astype(np.float32)


INVERSE = np.linspace(0.5, 2, ROWS).astype(np.float32)
EYE = np.eye(VOCAB, dtype=np.float32)


@pytest.mark.parametrize("cap", CAPS)
def test_scores_and_their_gradients_are_the_oracles(cap):
    logits = draw()
    (*expected,), state = oracle.score(logits, EYE, TARGETS, INVERSE, cap)
    cotangents = np.random.default_rng(1).normal(size=(3, ROWS)).astype(np.float32)

    def scores(logits):
        found = logit_score(logits, jnp.asarray(TARGETS), inv_temperature=jnp.asarray(INVERSE), soft_cap=cap)
        return jnp.stack([found.logprobs, found.entropy, found.lse])

    found, pull = jax.vjp(scores, jnp.asarray(logits))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    want = oracle.gradients(logits, EYE, TARGETS, state, cotangents)[0]
    np.testing.assert_allclose(pull(cotangents)[0], want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("cap", CAPS)
def test_statistics_are_those_of_token_score(cap):
    names = ("max_logit", "target_logit", "sum_logits", "sum_p2")
    arrays = jnp.asarray(draw()), jnp.asarray(EYE), jnp.asarray(TARGETS)
    options = {"inv_temperature": jnp.asarray(INVERSE), "soft_cap": cap, "statistics": names}
    found = logit_score(arrays[0], arrays[2], **options)
    want = token_score(*arrays, backend="reference", head_layout="dv", **options)
    for name in names:
        np.testing.assert_allclose(getattr(found, name), getattr(want, name), rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("cap", CAPS)
def test_kept_logprobs_are_those_of_the_function_with_a_head(cap):
    logits, targets = jnp.asarray(draw()), jnp.asarray(TARGETS)
    thresholds = jnp.linspace(-6, -1, ROWS)
    options = {"inv_temperature": jnp.asarray(INVERSE), "soft_cap": cap}
    lse = logit_score(logits, targets, **options).lse
    found = kept_logit_score(logits, targets, thresholds, lse, **options)
    want = kept_logprobs(
        logits, jnp.asarray(EYE), targets, thresholds, lse, head_layout="dv", backend="reference", **options
    )
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    assert np.any(np.abs(found - logit_score(logits, targets, **options).logprobs) > 1e-2)  # something was dropped


def test_divergences_are_those_of_the_function_with_a_head():
    policy, reference, valid = jnp.asarray(draw()), jnp.asarray(draw(2)), jnp.asarray(TARGETS >= 0)
    kinds = ("kl_policy_ref", "jsd", "squared_hellinger")
    found = logit_divergence(policy, reference, valid, kinds=kinds, inv_temperature=jnp.asarray(INVERSE))
    eye = jnp.asarray(EYE)
    options = {"kinds": kinds, "inv_temperature": jnp.asarray(INVERSE), "backend": "reference"} | dict.fromkeys(
        ("head_layout", "ref_head_layout"), "dv"
    )
    want = divergence(policy, eye, reference, eye, valid, **options)
    for kind in kinds:
        np.testing.assert_allclose(getattr(found, kind), getattr(want, kind), rtol=1e-5, atol=1e-6, err_msg=kind)
        np.testing.assert_array_equal(np.asarray(getattr(found, kind))[TARGETS < 0], 0)


def test_rows_that_are_ignored_may_hold_anything_and_unknown_targets_are_nan():
    logits = draw()
    logits[1], logits[5] = np.nan, np.inf
    targets = np.where(TARGETS == 18, VOCAB, TARGETS)

    def total(logits):
        found = logit_score(logits, jnp.asarray(targets))
        return jnp.sum(jnp.where(targets < VOCAB, found.logprobs + found.entropy + found.lse, 0)), found

    gradient, found = jax.grad(total, has_aux=True)(jnp.asarray(logits))
    assert np.isnan(found.logprobs[2]) and np.isfinite(np.delete(found.logprobs, 2)).all()
    np.testing.assert_array_equal(np.asarray(found.logprobs)[[1, 5]], 0)
    np.testing.assert_array_equal(np.asarray(gradient)[[1, 2, 5]], 0)


def test_a_token_that_is_ruled_out_has_no_probability():
    logits = draw()
    logits[0, 4:] = -np.inf
    found = logit_score(jnp.asarray(logits), jnp.asarray(TARGETS))
    row = np.float64(logits[0, :4])
    logp = row - row.max() - np.log(np.exp(row - row.max()).sum())
    np.testing.assert_allclose(
        [found.logprobs[0], found.entropy[0]], [logp[3], -(np.exp(logp) * logp).sum()], rtol=1e-5
    )


def test_an_unknown_statistic_is_refused():
    with pytest.raises(ConfigError, match="unknown statistic 'sum_logit'; did you mean 'sum_logits'"):
        logit_score(jnp.zeros((1, 3)), jnp.zeros(1, jnp.int32), statistics=("sum_logit",))
