"""Scoring holds no array of tokens by vocabulary; and the search that says so finds one where there is."""

import jax
import jax.numpy as jnp
import pytest

from jaxrl_tok.kernels import kept_logprobs, score_many, token_score, top_k
from jaxrl_tok.kernels.token_score.statistics import STATISTICS
from tests.kernels.jaxpr_shapes import offending

P, G, T, D, V = 2, 3, 5, 7, 101
TOKENS = P * G * T


def logits(x, w):
    return jnp.einsum("...D,DV->...V", x, w)


@jax.custom_vjp
def with_rule(x, w):
    return jnp.sum(logits(x, w))


with_rule.defvjp(lambda x, w: (with_rule(x, w), (x, w)), lambda r, g: (g * r[0], g * r[1]))


def in_scan(x, w):
    return jax.lax.scan(lambda c, _: (c + jnp.sum(logits(x, w)), None), jnp.float32(0), None, length=2)


def in_while(x, w):
    return jax.lax.while_loop(lambda c: c < 1, lambda c: c + jnp.sum(logits(x, w)), jnp.float32(0))


def in_cond(x, w):
    return jax.lax.cond(x[0, 0, 0, 0] > 0, lambda: jnp.sum(logits(x, w)), lambda: jnp.float32(0))


HIDDEN = {
    "plain": logits,
    "jit": jax.jit(lambda x, w: jnp.sum(logits(x, w))),
    "scan": in_scan,
    "while": in_while,
    "cond": in_cond,
    "custom_vjp": with_rule,
    "remat": jax.grad(jax.checkpoint(lambda x, w: jnp.sum(jax.nn.logsumexp(logits(x, w), axis=-1)))),
    "flat tokens": lambda x, w: logits(x.reshape(TOKENS, D), w),
    "two token axes": lambda x, w: logits(x.reshape(P, G * T, D), w),
    "vocabulary first": lambda x, w: jnp.moveaxis(logits(x, w), -1, 0),
    "flattened": lambda x, w: jnp.broadcast_to(jnp.sum(x), (TOKENS * V,)),
    "padded vocabulary": lambda x, w: logits(x, jnp.pad(w, ((0, 0), (0, 27)))),
}


@pytest.mark.parametrize("name", HIDDEN)
def test_finds_logits(name):
    jaxpr = jax.make_jaxpr(HIDDEN[name])(jnp.ones((P, G, T, D)), jnp.ones((D, V)))
    assert offending(jaxpr, TOKENS, V)


def test_finds_logits_of_a_microbatch():

    jaxpr = jax.make_jaxpr(lambda x, w: jax.lax.map(lambda y: jnp.sum(logits(y, w)), x))(
        jnp.ones((P, G, T, D)), jnp.ones((D, V))
    )
    assert offending(jaxpr, TOKENS, V) == []
    assert offending(jaxpr, {TOKENS, TOKENS // P}, V)


def test_passes_parameters_and_blocks():
    def f(x, w):
        return jnp.sum(logits(x, w[:, : V // 2])), w * 2, jnp.stack([w] * 4), jnp.sum(x, axis=-1)

    jaxpr = jax.make_jaxpr(f)(jnp.ones((P, G, T, D)), jnp.ones((D, V)))
    assert offending(jaxpr, TOKENS, V) == []


# More tokens than hidden size, and a prime vocabulary, so that no other axis is taken for either.
BATCH, LENGTH, SIZE, VOCABULARY = 4, 75, 64, 4099


def trace(score, layout):
    shape = (SIZE, VOCABULARY) if layout == "dv" else (VOCABULARY, SIZE)
    tokens = (BATCH, LENGTH)
    arguments = (
        jax.ShapeDtypeStruct((*tokens, SIZE), jnp.float32),
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct(tokens, jnp.int32),
        jax.ShapeDtypeStruct(tokens, jnp.float32),
    )
    forward = jax.make_jaxpr(score)(*arguments)
    backward = jax.make_jaxpr(jax.grad(lambda *a: jnp.sum(score(*a)), argnums=(0, 1)))(*arguments)
    return forward, backward


def all_scores(hidden, head, targets, inv_temperature, **options):
    scores = token_score(hidden, head, targets, inv_temperature=inv_temperature, **options)
    return scores.logprobs + scores.entropy + scores.lse


def kept_scores(hidden, head, targets, thresholds, **options):
    return kept_logprobs(hidden, head, targets, thresholds, **options)


def all_statistics(hidden, head, targets, inv_temperature, **options):
    scores = token_score(
        hidden, head, targets, inv_temperature=inv_temperature, statistics=tuple(STATISTICS), **options
    )
    return scores.logprobs + scores.mass_above + scores.rank.astype(jnp.float32)


def many_scores(hidden, head, targets, inv_temperature, **options):
    several = jnp.stack([targets, targets + 1, targets - 1], axis=-1)
    scores = score_many(hidden, head, several, inv_temperature=inv_temperature, **options)
    return jnp.sum(scores.logprobs, axis=-1) + scores.entropy + scores.lse


def best_scores(hidden, head, targets, inv_temperature, **options):
    return jnp.sum(top_k(hidden, head, 7, inv_temperature=inv_temperature, **options).logprobs, axis=-1)


SCORES = [all_scores, kept_scores, all_statistics, many_scores]


@pytest.mark.parametrize("soft_cap", [None, 30.0])
@pytest.mark.parametrize("layout", ["dv", "vd"])
@pytest.mark.parametrize("score", SCORES)
def test_no_logits_in_scoring_or_its_gradient(score, layout, soft_cap):
    for jaxpr in trace(lambda *a: score(*a, soft_cap=soft_cap), layout):
        assert offending(jaxpr, BATCH * LENGTH, VOCABULARY) == []


@pytest.mark.parametrize("score", SCORES)
def test_the_reference_has_them_in_both(score):
    for jaxpr in trace(lambda *a: score(*a, backend="reference"), "dv"):
        assert offending(jaxpr, BATCH * LENGTH, VOCABULARY)


def test_no_logits_in_the_largest_ones():
    assert offending(trace(best_scores, "dv")[0], BATCH * LENGTH, VOCABULARY) == []


@pytest.mark.parametrize("score", SCORES)
def test_no_logits_under_remat_and_in_a_loop_over_microbatches(score):
    def loss(hidden, head, targets, x):
        return jnp.sum(jax.lax.map(lambda row: jax.checkpoint(score)(row[0], head, *row[1:]), (hidden, targets, x)))

    _, backward = trace(loss, "vd")
    assert offending(backward, {BATCH * LENGTH, LENGTH}, VOCABULARY) == []
