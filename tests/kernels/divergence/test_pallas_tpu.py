import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu as pltpu

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import divergence
from jaxrl_tok.kernels.divergence import pallas_tpu, reference
from jaxrl_tok.kernels.divergence.common import DIVERGENCES, Pair, PairOptions, Side
from jaxrl_tok.kernels.token_score.common import Options
from jaxrl_tok.kernels.token_score.tiling import Blocks
from tests.kernels.divergence import test_api
from tests.kernels.divergence.cases import BACKENDS

INTERPRETED = "pallas_tpu_interpret"

# Every feature in one of them; each is compiled anew. A vocabulary of one token is not among them: its log-probs are 0
# but for rounding, and the gradient of the total variation is the sign of their difference.
SOME = (
    "very close",
    "far",
    "soft cap, another width, vd and dv",
    "offset 300 of the policy",
    "bf16, vd",
    "one row, one block",
)


QUICK = ("soft cap, another width, vd and dv",)


@pytest.mark.parametrize("name", [pytest.param(x, marks=[] if x in QUICK else pytest.mark.slow) for x in SOME])
def test_values_and_gradients(name, monkeypatch):
    monkeypatch.setitem(BACKENDS, INTERPRETED, {"backend": INTERPRETED})
    test_api.test_values_and_gradients(name, INTERPRETED)


def draw(tokens, size, ref_size, columns, layout, ref_layout):
    """Gives a pair of models with any normalisers, and their heads."""
    rng = np.random.default_rng(0)

    def side(size):
        numbers = rng.uniform(0.5, 2, tokens), rng.normal(size=tokens), rng.uniform(2, 8, tokens)
        return Side(jnp.float32(rng.normal(size=(tokens, size))), *map(jnp.float32, numbers))

    def head(size, layout):
        head = jnp.float32(rng.normal(size=(size, columns)) / np.sqrt(size))
        return head if layout == "dv" else head.T

    options = PairOptions(Options(layout, None, True, None), Options(ref_layout, 3.0, True, None), (*DIVERGENCES,), 0.3)
    return Pair(side(size), side(ref_size)), head(size, layout), head(ref_size, ref_layout), options


@pytest.mark.parametrize(
    ("layouts", "limit", "interpret"),
    [
        (("dv", "vd"), None, pltpu.InterpretParams(detect_races=True)),
        (("vd", "dv"), 150, True),  # a ragged block, and one without tokens
        (("dv", "dv"), 0, True),
    ],
)
def test_blocks_limits_and_races(layouts, limit, interpret):
    from jax._src.pallas.mosaic.interpret import interpret_pallas_call as interpreter

    *arrays, options = draw(45, 128, 64, 300, *layouts)
    limit = None if limit is None else jnp.int32(limit)
    how = {"blocks": Blocks(16, 128, 192), "interpret": interpret}
    got = jax.jit(lambda *a: pallas_tpu.forward(*a, options, limit, **how))(*arrays)
    want = jax.jit(lambda *a: reference.forward(*a, options, limit))(*arrays)
    # Sums of hundreds of float32 terms, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), got, want)
    assert interpreter.races is None or not interpreter.races.races_found


def test_expm1():
    x = np.concatenate([np.linspace(-3, 3, 4001), np.logspace(-30, 0, 301), -np.logspace(-30, 0, 301)])
    got = np.asarray(pallas_tpu.expm1(jnp.float32(x)), np.float64)
    want = np.expm1(np.float64(np.float32(x)))
    # Where the series ends, the exponential is rounded at 1, and the result is 0.3: 4 units in its last place.
    assert (np.abs(got - want) <= 4 * np.finfo(np.float32).eps * np.abs(want)).all()


def test_elsewhere_it_says_why_it_cannot_run():
    inputs = jnp.ones((2, 16)), jnp.ones((16, 8))
    with pytest.raises(ConfigError, match="backend 'pallas_tpu' cannot run: it runs on TPU, and this is cpu"):
        divergence(*inputs, *inputs, backend="pallas_tpu")
