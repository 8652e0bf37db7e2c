import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import TokenScores, token_score
from tests.kernels import oracle
from tests.kernels.token_score.cases import BACKENDS, CASES, Case, check_gradients, check_values


def evaluate(hidden, head, targets, inv_temperature, cotangents, *, backend, layout="dv", soft_cap=None, block=32):
    """Gives [logprobs, entropy, lse], and the gradients of hidden, head [D, V] and temperature.

    `cotangents` are [3, N]. Calls with inputs of the same shapes and types share what is compiled.
    """
    return _evaluate(hidden, head, targets, inv_temperature, cotangents, backend, layout, soft_cap, block)


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8))
def _evaluate(hidden, head, targets, inv_temperature, cotangents, backend, layout, soft_cap, block):
    def scores(hidden, head, inv_temperature):
        result = token_score(
            hidden,
            head if layout == "dv" else head.T,
            targets,
            inv_temperature=inv_temperature,
            soft_cap=soft_cap,
            block=block,
            **BACKENDS[backend],
        )
        return jnp.stack([result.logprobs, result.entropy, result.lse])

    value, pull = jax.vjp(scores, hidden, head, inv_temperature)
    return value, *pull(cotangents)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, backend):
    case = CASES[name]
    hidden, head, targets, inv_temperature, all_cotangents = case.arrays()
    expected, state = oracle.score(hidden, head, targets, inv_temperature, case.soft_cap)
    with jax.enable_x64(case.dtype == "float64"):
        inputs = jnp.asarray(hidden, case.dtype), jnp.asarray(head, case.dtype), targets, inv_temperature
        options = {"layout": case.layout, "soft_cap": case.soft_cap, "block": case.block}
        run = functools.partial(evaluate, *inputs, backend=backend, **options)
        jax.tree.map(np.testing.assert_array_equal, run(all_cotangents), run(all_cotangents))
        for subset in itertools.product((1, 0), repeat=3):
            cotangents = all_cotangents * np.asarray(subset, all_cotangents.dtype)[:, None]
            results = run(cotangents)
            value, *gradients, d_temperature = results
            assert [x.dtype for x in gradients] == [case.dtype] * 2
            want = oracle.gradients(hidden, head, targets, state, cotangents)
            check_gradients(case, gradients, want, hidden, head, cotangents, state[0])
            np.testing.assert_array_equal(d_temperature, 0)
    assert value.dtype == case.accumulation
    check_values(case, value, expected, state[0])


def draw(**changes):
    """Gives what `evaluate` takes, in float32, at temperature 1 and with cotangents 1."""
    hidden, head, targets, *_ = Case(**changes).arrays()
    return [
        np.float32(hidden),
        np.float32(head),
        targets,
        np.ones(len(targets), np.float32),
        ones(len(targets)),
    ]


def ones(tokens):
    return np.ones((3, tokens), np.float32)


@pytest.mark.parametrize("backend", BACKENDS)
def test_bounds_hold_exactly(backend):
    for scale in (0.0, 1e-4, 1.0, 30.0, 1000.0):
        hidden, head, targets, *rest = draw(scale=scale, ignored="none")
        for some in (targets, np.argmax(hidden @ head, axis=1).astype(np.int32)):
            value, *_ = evaluate(hidden, head, some, *rest, backend=backend)
            logprobs, entropy, _ = np.asarray(value, np.float64)
            assert (logprobs <= 0).all()
            assert (entropy >= 0).all()
            assert (entropy <= math.log(101)).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_flat_logits_have_the_highest_entropy(backend):
    hidden, head, *rest = draw(ignored="none")
    head[:] = head[:, :1]
    cotangents = np.asarray([[0.0], [1.0], [0.0]], np.float32) * ones(24)
    value, d_hidden, d_head, _ = evaluate(hidden, head, *rest[:-1], cotangents, backend=backend)
    np.testing.assert_allclose(value[0], -math.log(101), rtol=1e-6)
    np.testing.assert_allclose(value[1], math.log(101), rtol=1e-6)
    np.testing.assert_allclose(d_hidden, 0, atol=1e-6)
    np.testing.assert_allclose(d_head, 0, atol=1e-6)


def with_last(head, value):
    return np.concatenate([head[:-1], np.full_like(head[-1:], value)])


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_common_shift_moves_lse_alone(backend):
    hidden, head, *rest = draw(ignored="none", offset=1.0)
    before, *_ = evaluate(hidden, with_last(head, 0), *rest, backend=backend)
    after, *_ = evaluate(hidden, with_last(head, 64), *rest, backend=backend)
    # A unit in the last place of a logit between 64 and 128 is 7.6e-6.
    np.testing.assert_allclose(after, before + jnp.float32([[0], [0], [64]]) * ones(24), atol=2e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("offset", [0, 300, -300])
def test_gradient_by_the_logits_sums_to_the_cotangent_of_lse(backend, offset):
    hidden, head, targets, inv_temperature, _ = draw(ignored="none")
    hidden[:, 0], head[0] = 1, offset
    head[-1] = 1  # so that the last hidden coordinate gathers the gradient of all logits of its row
    cotangents = np.random.default_rng(0).normal(size=(3, 24)).astype(np.float32)
    _, d_hidden, *_ = evaluate(hidden, head, targets, inv_temperature, cotangents, backend=backend)
    # Logits near 300 are known to 1.5e-5, but all sums see the same ones.
    np.testing.assert_allclose(d_hidden[:, -1], cotangents[2], atol=4e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_rows_may_hold_anything(backend):
    hidden, head, targets, inv_temperature, cotangents = draw()
    ignored = targets < 0
    clean = evaluate(hidden, head, targets, inv_temperature, cotangents, backend=backend)
    poisoned = evaluate(
        np.where(ignored[:, None], np.float32(np.nan), hidden),
        head,
        targets,
        np.where(ignored, np.float32(np.inf), inv_temperature),
        np.where(ignored[None, :], np.float32(np.nan), cotangents),
        backend=backend,
    )
    for got, want in zip(poisoned, clean, strict=True):
        np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(clean[0][:, ignored], 0)
    np.testing.assert_array_equal(clean[1][ignored], 0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_targets_outside_the_vocabulary_are_nan(backend):
    hidden, head, targets, *rest = draw(ignored="none")
    targets[3], targets[5] = 101, 2**31 - 1
    value, *_ = evaluate(hidden, head, targets, *rest, backend=backend)
    np.testing.assert_array_equal(np.isnan(value).all(axis=0), np.isin(np.arange(24), [3, 5]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_nan_in_a_trained_row_shows_there_alone(backend):
    hidden, *rest = draw(ignored="none")
    hidden[3, 0] = np.nan
    value, d_hidden, d_head, _ = evaluate(hidden, *rest, backend=backend)
    np.testing.assert_array_equal(np.isnan(value), np.arange(24)[None, :] == np.full((3, 1), 3))
    np.testing.assert_array_equal(np.isnan(d_hidden).all(axis=1), np.arange(24) == 3)
    assert np.isnan(d_head).all()


def test_leading_axes_and_a_temperature_that_broadcasts():
    hidden, head, targets, *_ = map(jnp.asarray, draw())
    temperatures = jnp.float32([[[0.5, 0.6, 0.7, 0.8]], [[1.1, 1.2, 1.3, 1.4]]])
    per_row = jnp.broadcast_to(temperatures, (2, 3, 4)).reshape(24)
    flat = token_score(hidden, head, targets, inv_temperature=per_row)
    shaped = token_score(hidden.reshape(2, 3, 4, 16), head, targets.reshape(2, 3, 4), inv_temperature=temperatures)
    assert isinstance(shaped, TokenScores)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.reshape(2, 3, 4)), shaped, flat)


def test_a_temperature_for_all():
    hidden, head, targets, *_ = map(jnp.asarray, draw())
    flat, scalar = (token_score(hidden, head, targets, inv_temperature=x) for x in (jnp.full(24, 0.5), 0.5))
    jax.tree.map(np.testing.assert_array_equal, scalar, flat)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_constant_head_gets_no_gradient_and_hidden_the_same(backend):
    hidden, head, targets, *rest = map(jnp.asarray, draw())

    def loss(x, w):
        scores = token_score(x, w, targets, head_grad=False, block=32, **BACKENDS[backend])
        return jnp.sum(scores.logprobs + scores.entropy + scores.lse)

    d_hidden, d_head = jax.jit(jax.grad(loss, (0, 1)))(hidden, head)
    _, want, trained, _ = evaluate(hidden, head, targets, *rest, backend=backend)
    np.testing.assert_allclose(d_hidden, want, atol=1e-6)
    np.testing.assert_array_equal(d_head, 0)
    assert np.linalg.norm(trained) > 1


def test_mixed_types_accumulate_in_float32_and_keep_their_own_gradients():
    hidden, head, targets, *rest = draw()
    half = jnp.bfloat16(hidden)
    results = evaluate(half, head, targets, *rest, backend="chunked")
    wide = evaluate(np.float32(half), head, targets, *rest, backend="chunked")
    assert [x.dtype for x in results] == [jnp.float32, jnp.bfloat16, jnp.float32, jnp.float32]
    np.testing.assert_allclose(results[0], wide[0], atol=1e-6)
    np.testing.assert_allclose(results[2], wide[2], atol=1e-6)


def test_no_tokens():
    value, d_hidden, d_head, _ = evaluate(*draw(tokens=0, ignored="none"), backend="chunked")
    assert (value.shape, d_hidden.shape) == ((3, 0), (0, 16))
    np.testing.assert_array_equal(d_head, np.zeros((16, 101)))


def test_the_kernel_has_its_name_however_it_is_imported():
    import jaxrl_tok.kernels.token_score.api
    import jaxrl_tok.kernels.token_score.chunked

    assert jaxrl_tok.kernels.token_score is token_score
    assert callable(token_score)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": jnp.zeros((16, 16))}, r"head is square, \(16, 16\); say head_layout='dv'"),
        ({"head": jnp.zeros((5, 7))}, r"head is \(5, 7\); expected 16 for D, as in hidden, in dv or vd"),
        ({"head_layout": "vd"}, r"head is \(16, 101\); expected 16 for D, as in hidden, in vd"),
        ({"soft_cap": 0.0}, "soft_cap is 0.0; expected a positive number"),
        ({"block": 0}, "block is 0; expected a positive number"),
        ({"backend": "chuncked"}, "unknown backend 'chuncked'; did you mean 'chunked'"),
    ],
)
def test_mistakes_are_named(changes, message):
    hidden, head, targets, *_ = map(jnp.asarray, draw())
    arguments = {"hidden": hidden, "head": head, "targets": targets, **changes}
    with pytest.raises(ConfigError, match=message):
        token_score(**arguments)


def test_a_square_head_obeys_its_layout():
    hidden, head, targets, *_ = draw(vocabulary=16, ignored="none")
    for layout in ("dv", "vd"):
        value = jax.jit(functools.partial(token_score, head_layout=layout))(hidden, head, targets)
        logits = hidden @ (head if layout == "dv" else head.T)
        np.testing.assert_allclose(value.lse, np.log(np.exp(logits).sum(axis=1)), atol=1e-5)
