"""The statistics that can be asked for besides log-prob, entropy and normaliser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import token_score
from jaxrl_tok.kernels.token_score import chunked
from jaxrl_tok.kernels.token_score.common import Options, Rows
from jaxrl_tok.kernels.token_score.statistics import ALWAYS, STATISTICS
from tests.kernels import oracle
from tests.kernels.token_score.cases import BACKENDS, CASES, Case, allowed, check_values, ulps


def evaluate(*arguments):
    """Calls with inputs of the same shapes, types and options share what is compiled."""
    return _evaluate(*(x.program if isinstance(x, Case) else x for x in arguments))


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _evaluate(hidden, head, targets, inv_temperature, backend, case, names=tuple(STATISTICS)):
    return token_score(
        hidden,
        head if case.layout == "dv" else head.T,
        targets,
        inv_temperature=inv_temperature,
        soft_cap=case.soft_cap,
        statistics=names,
        block=case.block,
        **BACKENDS[backend],
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_against_the_oracle(name, backend):
    case = CASES[name]
    hidden, head, targets, inv_temperature, _ = case.arrays()
    z, _ = oracle.logits(hidden, head, inv_temperature, case.soft_cap)
    want, valid = oracle.statistics(z, targets), targets >= 0
    with jax.enable_x64(case.dtype == "float64"):
        inputs = jnp.asarray(hidden, case.dtype), jnp.asarray(head, case.dtype), targets, inv_temperature
        got = evaluate(*inputs, backend, case)
    got = {field: np.asarray(getattr(got, field)) for field in want}
    assert got["argmax"].dtype == got["rank"].dtype == np.int32
    assert got["sum_p2"].dtype == case.accumulation
    for x in got.values():
        np.testing.assert_array_equal(x[~valid], 0)
    for field in ("max_logit", "target_logit", "sum_p2", "sum_p2_logp", "top2_gap"):
        number = valid & np.isfinite(want[field])  # a vocabulary of one has no second logit
        np.testing.assert_array_equal(got[field][~number], want[field][~number])
        check_values(case, got[field][number], want[field][number], z)
    # The sum of V logits is off by the rounding of each; the variance by that of two logits times the deviation.
    spread = allowed(case, np.abs(z).sum(axis=1), z)
    assert (np.abs(got["sum_logits"] - want["sum_logits"]) <= spread)[valid].all()
    loose = allowed(case, want["varentropy"], z) + 2 * ulps(case, z) * np.sqrt(want["varentropy"])
    assert (np.abs(got["varentropy"] - want["varentropy"]) <= loose)[valid].all()
    check_order(case, got, want, z, valid)


def check_order(case, got, want, z, valid):
    """Asserts that what compares logits is right, but for those that differ by less than their rounding."""
    near, rows = ulps(case, z) + 1e-6 * np.abs(z).max(), np.arange(len(z))
    assert (z[rows, got["argmax"]] >= want["max_logit"] - near)[valid].all()
    clear = valid & (want["top2_gap"] > near)
    np.testing.assert_array_equal(got["argmax"][clear], want["argmax"][clear])
    if case.scale == 0:  # all columns are equal: the first is the largest, and none is above another
        np.testing.assert_array_equal(got["argmax"], 0)
        np.testing.assert_array_equal(got["rank"], valid)
    pivot = want["target_logit"][:, None]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    p = p / p.sum(axis=1, keepdims=True)
    surely, maybe = z > pivot + near, z > pivot - near
    maybe &= np.arange(z.shape[1])[None, :] != case.arrays()[2][:, None]
    assert (1 + surely.sum(axis=1) <= got["rank"])[valid].all()
    assert (got["rank"] <= 1 + maybe.sum(axis=1))[valid].all()
    assert ((p * surely).sum(axis=1) - 1e-5 <= got["mass_above"])[valid].all()
    assert (got["mass_above"] <= (p * maybe).sum(axis=1) + 1e-5)[valid].all()
    assert (((got["rank"] == 1) == (got["target_logit"] == got["max_logit"])) | ~valid).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_field_asked_for_alone_is_the_same_and_the_others_are_none(backend):
    hidden, head, targets, inv_temperature, _ = Case().arrays()
    inputs = jnp.float32(hidden), jnp.float32(head), targets, inv_temperature
    every = evaluate(*inputs, backend, Case())
    for name in ("argmax", "sum_p2_logp", "rank"):
        got = evaluate(*inputs, backend, Case(), (name,))
        np.testing.assert_allclose(getattr(got, name), getattr(every, name), rtol=1e-6, atol=1e-7)
        present = {field for field in (*ALWAYS, *STATISTICS) if getattr(got, field) is not None}
        assert present == {*ALWAYS, name}


def test_a_field_adds_its_own_sums_and_nothing_else():
    rows = Rows(jnp.ones((6, 4)), jnp.zeros(6, jnp.int32), jnp.ones(6), None, pivot=jnp.zeros(6))
    for name, extras in STATISTICS.items():
        options = Options("dv", None, True, 32, (name,), extras)
        jaxpr = jax.make_jaxpr(lambda head, options=options: chunked.forward(rows, head, options))(jnp.ones((4, 101)))
        (scan,) = (one for one in jaxpr.eqns if one.primitive.name == "scan")
        assert len(scan.outvars) == 4 + len(extras)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_of_equal_logits_is_the_largest(backend):
    hidden = np.ones((2, 1), np.float32)
    head = np.zeros((1, 101), np.float32)
    head[0, [40, 70, 71, 100]] = 2
    inputs = hidden, head, np.int32([70, 5]), np.ones(2, np.float32)
    got = evaluate(*inputs, backend, Case())
    np.testing.assert_array_equal(got.argmax, [40, 40])
    np.testing.assert_array_equal(got.top2_gap, 0)
    np.testing.assert_array_equal(got.rank, [1, 5])
    mass = 4 * np.exp(2) / (97 + 4 * np.exp(2))
    np.testing.assert_allclose(got.mass_above, [0, mass], rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_carry_no_gradient(backend):
    hidden, head, targets, *_ = Case().arrays()

    def loss(hidden, head, names):
        got = token_score(hidden, head, jnp.asarray(targets), statistics=names, block=32, **BACKENDS[backend])
        floats = [getattr(got, name) for name in names if name not in ("argmax", "rank")]
        return jnp.sum(got.entropy) + sum(jnp.sum(x) for x in floats)

    both = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    want = both(jnp.float32(hidden), jnp.float32(head), ())
    for a, b in zip(both(jnp.float32(hidden), jnp.float32(head), tuple(STATISTICS)), want, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_and_unknown_targets(backend):
    hidden, head, targets, inv_temperature, _ = Case(ignored="none").arrays()
    inputs = np.float32(hidden), np.float32(head)
    changed = targets.copy()
    changed[:2] = -5, 101
    hidden_changed = inputs[0].copy()
    hidden_changed[0] = np.nan
    clean = evaluate(*inputs, targets, inv_temperature, backend, Case())
    got = evaluate(hidden_changed, inputs[1], changed, inv_temperature, backend, Case())
    for name in STATISTICS:
        x = np.asarray(getattr(got, name))
        assert x[0] == 0
        assert x[1] == -1 if x.dtype == np.int32 else np.isnan(x[1])
        np.testing.assert_array_equal(x[2:], np.asarray(getattr(clean, name))[2:])


@pytest.mark.parametrize(
    ("names", "message"),
    [(("rnk",), "unknown statistic 'rnk'; did you mean 'rank'"), ("rank", r"statistics is 'rank'; .* in \('rank',\)")],
)
def test_mistakes_are_named(names, message):
    with pytest.raises(ConfigError, match=message):
        token_score(jnp.ones((2, 3)), jnp.ones((3, 5)), jnp.zeros(2, jnp.int32), statistics=names)
