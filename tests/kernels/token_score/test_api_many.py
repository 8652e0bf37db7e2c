"""Several targets for one hidden row."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels import score_many, token_score
from tests.kernels import oracle
from tests.kernels.token_score.cases import BACKENDS, Case, check_gradients, check_values

K = 5
CASES = {
    "plain": Case(ignored="none"),
    "soft cap, vd, temperature per row": Case(soft_cap=2.0, scale=3.0, per_row_temperature=True, layout="vd"),
    "bf16": Case(dtype="bfloat16", ignored="none", size=24),
    "f64": Case(dtype="float64", vocabulary=96),
    "offset 300": Case(offset=300.0),
}


def draw(case):
    """Gives K targets a row, some twice and some ignored; rows ignored in the case are whole."""
    hidden, head, first, inv_temperature, cotangents = case.arrays()
    rng = np.random.default_rng(1)
    targets = rng.integers(0, case.vocabulary, (case.tokens, K)).astype(np.int32)
    targets[:, 2] = targets[:, 0]
    targets[::3, 4] = -1
    targets[first < 0] = -7
    return hidden, head, targets, inv_temperature, cotangents, rng.normal(size=targets.shape)


def evaluate(*arguments):
    """Calls with inputs of the same shapes, types and options share what is compiled."""
    return _evaluate(*(x.program if isinstance(x, Case) else x for x in arguments))


@functools.partial(jax.jit, static_argnums=(6, 7))
def _evaluate(hidden, head, targets, inv_temperature, cotangents, many, case, backend):
    def scores(hidden, head):
        got = score_many(
            hidden,
            head if case.layout == "dv" else head.T,
            targets,
            inv_temperature=inv_temperature,
            soft_cap=case.soft_cap,
            block=32,
            **BACKENDS[backend],
        )
        return got.logprobs, got.entropy, got.lse

    value, pull = jax.vjp(scores, hidden, head)
    return value, pull((many, cotangents[1], cotangents[2]))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, backend):
    case = CASES[name]
    hidden, head, targets, inv_temperature, cotangents, many = draw(case)
    many = many.astype(case.accumulation)
    with jax.enable_x64(case.dtype == "float64"):
        inputs = jnp.asarray(hidden, case.dtype), jnp.asarray(head, case.dtype), targets, inv_temperature
        (logprobs, entropy, lse), got = evaluate(*inputs, cotangents, many, case, backend)
    want = [np.zeros_like(hidden), np.zeros_like(head)]
    for k in range(K):
        values, state = oracle.score(hidden, head, targets[:, k], inv_temperature, case.soft_cap)
        check_values(case, logprobs[:, k], values[0], state[0])
        assert (np.asarray(logprobs[:, k]) <= 0).all()
        of_row = cotangents[1:] if k == 0 else 0 * cotangents[1:]
        parts = oracle.gradients(hidden, head, targets[:, k], state, (many[:, k], *of_row))
        want = [a + b for a, b in zip(want, parts, strict=True)]
        if k == 0:
            check_values(case, entropy, values[1], state[0])
            check_values(case, lse, values[2], state[0])
            z = state[0]
    check_gradients(case, got, want, hidden, head, np.concatenate([cotangents, many.T]), z)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_target_scores_as_alone(backend):
    hidden, head, targets, *_ = Case().arrays()
    hidden, head, targets = jnp.float32(hidden), jnp.float32(head), jnp.asarray(targets)
    options = {"block": 32, **BACKENDS[backend]}
    one = jax.jit(lambda: token_score(hidden, head, targets, **options))()
    many = jax.jit(lambda: score_many(hidden, head, targets[:, None], **options))()
    np.testing.assert_allclose(many.logprobs[:, 0], one.logprobs, atol=1e-6)
    np.testing.assert_allclose(many.entropy, one.entropy, atol=1e-6)
    np.testing.assert_allclose(many.lse, one.lse, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_log_probs_of_all_tokens_are_a_distribution(backend):
    hidden, head, *_ = Case(tokens=6, ignored="none").arrays()
    every = jnp.broadcast_to(jnp.arange(101, dtype=jnp.int32), (2, 3, 101))
    options = {"block": 32, **BACKENDS[backend]}
    inputs = jnp.float32(hidden).reshape(2, 3, 16), jnp.float32(head)
    got = jax.jit(lambda: score_many(*inputs, every, **options))()
    np.testing.assert_allclose(jnp.sum(jnp.exp(got.logprobs), axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(-jnp.sum(jnp.exp(got.logprobs) * got.logprobs, axis=-1), got.entropy, rtol=1e-5)
    assert got.lse.shape == (2, 3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_may_hold_anything_and_unknown_targets_are_nan(backend):
    case = Case()
    hidden, head, targets, inv_temperature, cotangents, many = draw(case)
    many = many.astype(np.float32)
    ignored = (targets < 0).all(axis=1)
    clean = evaluate(jnp.float32(hidden), jnp.float32(head), targets, inv_temperature, cotangents, many, case, backend)
    hidden[ignored], cotangents[:, ignored], many[targets < 0] = np.nan, np.nan, np.nan
    inputs = jnp.float32(hidden), jnp.float32(head), targets, np.where(ignored, np.float32(np.nan), inv_temperature)
    got = evaluate(*inputs, cotangents, many, case, backend)
    jax.tree.map(np.testing.assert_array_equal, got, clean)
    assert (np.asarray(got[0][0])[targets < 0] == 0).all()
    targets = targets.copy()
    targets[1, 1] = 101
    (logprobs, *_), _ = evaluate(*inputs[:2], targets, inv_temperature, cotangents, many, case, backend)
    np.testing.assert_array_equal(np.argwhere(np.isnan(logprobs)), [[1, 1]])
