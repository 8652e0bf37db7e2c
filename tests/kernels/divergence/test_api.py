import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import Divergences, divergence, token_score
from jaxrl_tok.kernels.divergence.common import DIVERGENCES
from tests.kernels import oracle
from tests.kernels.divergence.cases import BACKENDS, CASES, GRADIENT_TOLERANCE, Case

KINDS = tuple(DIVERGENCES)


def evaluate(*arguments):
    """Calls with inputs of the same shapes, types and options share what is compiled."""
    return _evaluate(*(x.program if isinstance(x, Case) else x for x in arguments))


@functools.partial(jax.jit, static_argnums=(7, 8, 9))
def _evaluate(hidden, head, ref_hidden, ref_head, valid, inv_temperature, cotangents, case, backend, kinds=KINDS):
    """Gives the divergences [kinds, N], and the gradients of all four arrays, heads as [D, V]."""

    def f(hidden, head, ref_hidden, ref_head):
        got = divergence(
            hidden,
            head if case.layout == "dv" else head.T,
            ref_hidden,
            ref_head if case.ref_layout == "dv" else ref_head.T,
            valid,
            kinds=kinds,
            beta=case.beta,
            inv_temperature=inv_temperature,
            soft_cap=case.soft_cap,
            head_layout=case.layout,
            ref_head_layout=case.ref_layout,
            block=case.block,
            **BACKENDS[backend],
        )
        return jnp.stack([getattr(got, kind) for kind in kinds])

    value, pull = jax.vjp(f, hidden, head, ref_hidden, ref_head)
    return value, *pull(cotangents)


def expected(case):
    """Gives the values by kind, the gradients of hidden and head by kind for cotangents of one, and the logits."""
    hidden, head, ref_hidden, ref_head, valid, inv_temperature, _ = case.arrays()
    # The formulas of the oracle cancel for close models, so it has digits to spare.
    wide = np.longdouble
    z, slope = oracle.logits(hidden, head, wide(inv_temperature), case.soft_cap, wide)
    zr, _ = oracle.logits(ref_hidden, ref_head, wide(inv_temperature), case.soft_cap, wide)
    logp, logr = (x - x.max(1, keepdims=True) for x in (z, zr))
    logp, logr = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logp, logr))
    values, gradients = oracle.divergences(logp, logr, case.beta)
    gradients = {kind: np.float64(g * slope) * valid[:, None] for kind, g in gradients.items()}
    return {kind: np.float64(x) for kind, x in values.items()}, gradients, np.float64(z)


def rounding(kind, value, u):
    """Gives how far a divergence moves when each logit is off by u: about sqrt(D) u where it is quadratic near 0."""
    return u if kind == "total_variation" else 2 * u * np.sqrt(np.maximum(value, 0)) + 4 * u * u


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, backend):
    case = CASES[name]
    hidden, head, ref_hidden, ref_head, valid, inv_temperature, all_cotangents = case.arrays()
    values, gradients, z = expected(case)
    epsilon = np.finfo(case.accumulation).eps
    unit = epsilon * max(1, np.abs(z).max())
    with jax.enable_x64(case.dtype == "float64"):
        arrays = [jnp.asarray(x, case.dtype) for x in (hidden, head, ref_hidden, ref_head)]

        def run(cotangents):
            return evaluate(*arrays, valid, inv_temperature, cotangents, case, backend)

        jax.tree.map(np.testing.assert_array_equal, run(all_cotangents), run(all_cotangents))
        for subset in (np.ones(5), *np.eye(5)) if case.vocabulary < 10**5 else (np.ones(5),):
            cotangents = all_cotangents * subset.astype(all_cotangents.dtype)[:, None]
            value, d_hidden, d_head, *d_ref = run(cotangents)
            g = sum(cotangents[i][:, None] * gradients[kind] for i, kind in enumerate(KINDS))
            want = g @ head.T, hidden.T @ g
            for got, one, other in zip((d_hidden, d_head), want, (head, hidden), strict=True):
                assert got.dtype == case.dtype
                error = np.linalg.norm(np.asarray(got, np.float64) - one)
                noise = 8 * unit * np.linalg.norm(cotangents) * np.linalg.norm(other, 2)
                assert error <= GRADIENT_TOLERANCE[case.dtype] * np.linalg.norm(one) + noise
            for got in d_ref:
                np.testing.assert_array_equal(got, 0)
    assert value.dtype == case.accumulation
    for i, kind in enumerate(KINDS):
        got = np.asarray(value[i], np.float64)
        np.testing.assert_array_equal(got[~valid], 0)
        want = values[kind]
        allowed = 20 * epsilon * np.maximum(want, 0) + rounding(kind, want, 8 * unit) + 1e-300
        assert (np.abs(got - want) <= allowed)[valid].all(), kind
        assert (got >= 0).all()


def arrays_of(case, dtype=np.float32):
    hidden, head, ref_hidden, ref_head, valid, inv_temperature, cotangents = case.arrays()
    return [x.astype(dtype) for x in (hidden, head, ref_hidden, ref_head)], valid, inv_temperature, cotangents


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_that_are_the_same_have_no_divergence_and_no_gradient(backend):
    for case in (Case(), Case(scale=30.0), Case(offset=-300.0)):
        (hidden, head, *_), valid, inv_temperature, cotangents = arrays_of(case)
        results = evaluate(hidden, head, hidden, head, valid, inv_temperature, cotangents, case, backend)
        np.testing.assert_array_equal(results[0], 0)
        np.testing.assert_allclose(results[1], 0, atol=1e-6 * max(1, abs(case.offset)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_models_with_nothing_in_common_reach_the_bounds(backend):
    head, valid, one = 60 * np.eye(8, dtype=np.float32), np.ones(2, bool), np.ones(2, np.float32)
    hidden, ref_hidden = np.eye(8, dtype=np.float32)[:2], np.eye(8, dtype=np.float32)[5:7]
    case = Case(tokens=2, size=8, vocabulary=8, beta=0.3)
    value, *gradients = evaluate(hidden, head, ref_hidden, head, valid, one, np.ones((5, 2), np.float32), case, backend)
    entropy = -0.3 * np.log(0.3) - 0.7 * np.log(0.7)
    np.testing.assert_allclose(value, [[60] * 2, [60] * 2, [1] * 2, [entropy] * 2, [1] * 2], rtol=1e-5)
    assert (np.float64(value[2:]) <= np.float64([[1], [entropy + 1e-7], [1]])).all()
    assert all(np.isfinite(g).all() for g in gradients)
    far = evaluate(
        30 * hidden, 30 * head, 30 * ref_hidden, head, valid, one, np.ones((5, 2), np.float32), case, backend
    )
    assert all(np.isfinite(x).all() for x in far)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_kind_alone_is_the_same_and_the_others_are_none(backend):
    inputs, valid, inv_temperature, cotangents = arrays_of(Case())
    every = evaluate(*inputs, valid, inv_temperature, cotangents, Case(), backend)[0]
    for i, kind in ((1, "kl_ref_policy"), (3, "jsd")):
        alone = evaluate(*inputs, valid, inv_temperature, cotangents[:1], Case(), backend, (kind,))[0]
        np.testing.assert_allclose(alone[0], every[i], rtol=1e-5)
    got = divergence(*map(jnp.asarray, inputs), kinds=("jsd",), head_layout="dv", ref_head_layout="dv")
    assert isinstance(got, Divergences)
    assert [kind for kind in KINDS if getattr(got, kind) is not None] == ["jsd"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_rows_that_are_not_valid_may_hold_anything(backend):
    (hidden, head, ref_hidden, ref_head), valid, inv_temperature, cotangents = arrays_of(Case())
    clean = evaluate(hidden, head, ref_hidden, ref_head, valid, inv_temperature, cotangents, Case(), backend)
    spoilt = [np.where(valid[:, None], x, np.float32(np.nan)) for x in (hidden, ref_hidden)]
    vectors = [np.where(valid, x, np.float32(np.nan)) for x in (inv_temperature, cotangents)]
    got = evaluate(spoilt[0], head, spoilt[1], ref_head, valid, *vectors, Case(), backend)
    jax.tree.map(np.testing.assert_array_equal, got, clean)


@pytest.mark.parametrize("backend", BACKENDS)
def test_normalisers_that_are_given_are_used(backend):
    inputs, *_ = arrays_of(Case(some_invalid=False))
    hidden, head, ref_hidden, ref_head = map(jnp.asarray, inputs)
    options = {"head_layout": "dv", "block": 32, **BACKENDS[backend]}

    @jax.jit
    def both():
        nowhere = jnp.zeros(24, jnp.int32)
        lse, ref_lse = (token_score(*x, nowhere, **options).lse for x in ((hidden, head), (ref_hidden, ref_head)))
        found = []
        for given in ((None, None), (lse, ref_lse), (lse + 1, ref_lse)):

            def f(hidden, given=given):
                got = divergence(hidden, head, ref_hidden, ref_head, None, *given, ref_head_layout="dv", **options)
                return jnp.sum(got.kl_policy_ref)

            found.append(jax.value_and_grad(f)(hidden))
        return found

    alone, given, wrong = both()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), given, alone)
    assert abs(wrong[0] - alone[0]) > 1


def test_leading_axes_and_a_head_that_is_constant():
    inputs, *_ = arrays_of(Case(some_invalid=False))
    hidden, head, ref_hidden, ref_head = map(jnp.asarray, inputs)

    def loss(hidden, head, **options):
        got = divergence(hidden, head, ref_hidden.reshape(*hidden.shape), ref_head, block=32, **options)
        return jnp.sum(got.kl_policy_ref), got.kl_policy_ref

    flat, (d_hidden, d_head) = jax.grad(loss, (0, 1), has_aux=True)(hidden, head)[::-1]
    shaped, gradients = jax.grad(loss, (0, 1), has_aux=True)(hidden.reshape(2, 3, 4, 16), head, head_grad=False)[::-1]
    np.testing.assert_array_equal(shaped, flat.reshape(2, 3, 4))
    np.testing.assert_allclose(gradients[0].reshape(24, 16), d_hidden, atol=1e-6)
    np.testing.assert_array_equal(gradients[1], 0)
    assert np.linalg.norm(d_head) > 0.1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("kl",)}, "unknown divergence 'kl'; "),
        ({"kinds": "jsd"}, r"kinds is 'jsd'; expected one or more of kl_policy_ref, .* as in \('jsd',\)"),
        ({"kinds": ("jsd",), "beta": 1.0}, "beta is 1.0; expected a number between 0 and 1"),
        ({"ref_head": jnp.zeros((16, 100))}, "ref_head has 100 columns; expected 101, as in head"),
        ({"ref_head": jnp.zeros((3, 101))}, r"ref_head is \(3, 101\); expected 16 for D"),
    ],
)
def test_mistakes_are_named(changes, message):
    inputs, *_ = arrays_of(Case())
    names = ("hidden", "head", "ref_hidden", "ref_head")
    arguments = {**dict(zip(names, map(jnp.asarray, inputs), strict=True)), **changes}
    with pytest.raises(ConfigError, match=message):
        divergence(**arguments)
