import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import token_score
from jaxrl_tok.kernels.token_score import pallas_tpu, reference
from jaxrl_tok.kernels.token_score.common import Options, Rows, Sums
from jaxrl_tok.kernels.token_score.statistics import STATISTICS
from jaxrl_tok.kernels.token_score.tiling import Blocks
from tests.kernels import oracle
from tests.kernels.jaxpr_shapes import offending
from tests.kernels.token_score.cases import CASES, Case, check_gradients, check_values
from tests.kernels.token_score.test_api_statistics import check_order

EXTRAS = Sums._fields[4:]


# Cases that ask for every statistic, which takes long to compile; the first also stands for those of its shape.
WITH_STATISTICS = ("plain", "soft cap, vd", "bf16, 11 blocks of 128, peaked, ragged D", "one token of vocabulary")


@functools.partial(jax.jit, static_argnums=(5, 6, 7, 8))
def evaluate(hidden, head, targets, inv_temperature, cotangents, layout, soft_cap, block, statistics):
    """Gives the scores with some statistics, and the gradients of hidden and head [D, V]."""

    def scores(hidden, head):
        head = head if layout == "dv" else head.T
        options = {"inv_temperature": inv_temperature, "soft_cap": soft_cap, "head_layout": layout, "block": block}
        options = {**options, "statistics": statistics, "backend": "pallas_tpu_interpret"}
        got = token_score(hidden, head, targets, **options)
        return jnp.stack([got.logprobs, got.entropy, got.lse]), got

    _, pull, got = jax.vjp(scores, hidden, head, has_aux=True)
    return got, pull(cotangents)


# What is one number away from another case.
LONG = {
    "all ignored",
    "target at the start of a block",
    "target last, in the rest",
    "offset -300, so all logits negative",
    "flat",
    "one row, one block",
    "one token of vocabulary",
    "bf16, 11 blocks of 128, peaked, ragged D",
}


@pytest.mark.parametrize("name", [pytest.param(x, marks=pytest.mark.slow if x in LONG else []) for x in CASES])
def test_the_table(name):
    case = CASES[name]
    hidden, head, targets, inv_temperature, cotangents = case.arrays()
    expected, state = oracle.score(hidden, head, targets, inv_temperature, case.soft_cap)
    z = state[0]
    like_plain = dataclasses.replace(case, scale=1, offset=0, target=None, per_row_temperature=False, ignored="some")
    statistics = tuple(STATISTICS) if name in WITH_STATISTICS or like_plain == Case() else ()
    with jax.enable_x64(case.dtype == "float64"):
        arrays = jnp.asarray(hidden, case.dtype), jnp.asarray(head, case.dtype), targets, inv_temperature, cotangents
        got, gradients = evaluate(*arrays, case.layout, case.soft_cap, min(case.block, 256), statistics)
    check_gradients(
        case, gradients, oracle.gradients(hidden, head, targets, state, cotangents), hidden, head, cotangents, z
    )
    check_values(case, np.stack([got.logprobs, got.entropy, got.lse]), expected, z)
    if statistics:
        check_statistics(case, got, z, targets)


def check_statistics(case, scores, z, targets):
    want, valid = oracle.statistics(z, targets), targets >= 0
    got = {field: np.asarray(getattr(scores, field)) for field in want}
    for field in ("max_logit", "target_logit", "sum_p2", "sum_p2_logp", "top2_gap"):
        number = valid & np.isfinite(want[field])
        np.testing.assert_array_equal(got[field][~number], want[field][~number])
        check_values(case, got[field][number], want[field][number], z)
    check_order(case, got, want, z, valid)


def draw(tokens, size, columns, layout="dv", dtype=np.float32, cut=False):
    """Gives rows with targets in and out of the columns, and a head."""
    rng = np.random.default_rng(tokens + columns)
    hidden, head = rng.normal(size=(tokens, size)), rng.normal(size=(size, columns)) / np.sqrt(size)
    numbers = [jnp.float32(rng.uniform(0.5, 2, tokens)), *jnp.float32(rng.normal(size=(2, tokens)))]
    targets = jnp.int32(rng.integers(-3, columns + 3, tokens))
    rows = Rows(jnp.asarray(hidden, dtype), targets, numbers[0], numbers[1] if cut else None, numbers[2])
    return rows, jnp.asarray(head if layout == "dv" else head.T, dtype)


def sums_of(rows, head, layout, limit, **how):
    """Gives the kernel's sums and the definition's, without the logit of a target past the limit."""
    options = Options(layout, None, True, None, (), EXTRAS)
    limit = None if limit is None else jnp.int32(limit)
    got = jax.jit(lambda rows, head: pallas_tpu.forward(rows, head, options, limit, **how))(rows, head)
    want = jax.jit(lambda rows, head: reference.forward(rows, head, options, limit))(rows, head)
    here = (rows.targets >= 0) & (rows.targets < (limit if limit is not None else head.shape[options.columns]))
    return got, want._replace(target_logit=jnp.where(here, want.target_logit, 0))


def check(got, want, fields=Sums._fields):
    """Asserts that some fields agree, and that there are no others."""
    assert [name for name in Sums._fields if getattr(got, name) is not None] == list(fields)
    for name in fields:
        assert getattr(got, name).dtype == getattr(want, name).dtype
        # Sums of hundreds of float32 terms, in another order.
        np.testing.assert_allclose(getattr(got, name), getattr(want, name), rtol=1e-5, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("layout", "blocks", "limit", "cut"),
    [
        ("dv", Blocks(16, 128, 128), None, False),  # two parts of D, rows and columns in ragged blocks
        ("vd", Blocks(32, 256, 128), 290, True),  # a block without tokens, another with some
        ("dv", Blocks(64, 512, 256), 0, False),  # no tokens at all, fewer rows than a block
    ],
)
def test_blocks_and_limits(layout, blocks, limit, cut):
    problem = draw(45, 256, 700, layout, cut=cut)
    check(*sums_of(*problem, layout, limit, blocks=blocks, interpret=True))


@pytest.mark.parametrize(
    ("layout", "shape", "blocks"),
    [("dv", (45, 64, 300), Blocks(16, 128, 64)), ("vd", (16, 256, 200), Blocks(16, 128, 128))],
)
def test_no_races_and_nothing_read_that_was_not_written(layout, shape, blocks):
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    # Memory that nobody wrote is NaN there, and would show.
    how = {"blocks": blocks, "interpret": pltpu.InterpretParams(detect_races=True)}
    check(*sums_of(*draw(*shape, layout), layout, None, **how))
    # jax 0.12 raises at a race; jax 0.10 notes it.
    assert interpreter.races is None or not interpreter.races.races_found


def test_over_shards_of_the_vocabulary():
    hidden, head, targets, *_ = Case(vocabulary=104).arrays()
    inputs = jnp.float32(hidden), jnp.float32(head), targets
    mesh = jax.make_mesh((4,), ("vocab",), axis_types=(jax.sharding.AxisType.Auto,))

    def loss(hidden, head, targets, **how):
        got = token_score(hidden, head, targets, statistics=("argmax", "top2_gap", "rank"), head_layout="dv", **how)
        return jnp.sum(got.logprobs + got.entropy), got

    def both(*arrays, **how):
        return jax.value_and_grad(functools.partial(loss, **how), (0, 1), has_aux=True)(*arrays)

    specs, rows, columns = (jax.P(), jax.P(None, "vocab"), jax.P()), jax.P(), jax.P(None, "vocab")
    how = {"vocab_axis": "vocab", "backend": "pallas_tpu_interpret"}
    # The interpreter of neither version of jax keeps track of what varies over the mesh; the compiler does.
    run = jax.shard_map(
        lambda *a: both(*a, **how), mesh=mesh, in_specs=specs, out_specs=(rows, (rows, columns)), check_vma=False
    )
    got, want = jax.jit(run)(*inputs), jax.jit(functools.partial(both, backend="reference"))(*inputs)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_holds_no_logits():
    tokens, size, columns = 300, 64, 4099
    rows = jnp.ones((tokens, size)), jnp.ones((size, columns)), jnp.zeros(tokens, jnp.int32)
    score = functools.partial(token_score, backend="pallas_tpu_interpret", head_layout="dv")
    jaxpr = jax.make_jaxpr(jax.grad(lambda *a: jnp.sum(score(*a).logprobs), (0, 1)))(*rows)
    assert "token_score" in str(jaxpr)
    assert offending(jaxpr, tokens, columns) == []


def test_elsewhere_it_says_why_it_cannot_run():
    inputs = jnp.ones((2, 16)), jnp.ones((16, 8)), jnp.zeros(2, jnp.int32)
    with pytest.raises(ConfigError, match="backend 'pallas_tpu' cannot run: it runs on TPU, and this is cpu"):
        token_score(*inputs, backend="pallas_tpu")
    assert pallas_tpu.why_not("tpu", inputs[:2], 8) is None
    assert "bfloat16 or float32, not float16" in pallas_tpu.why_not("tpu", [jnp.ones(2, jnp.float16)], 8)
    assert "up to 16777216" in pallas_tpu.why_not("tpu", inputs[:2], 2**24)
