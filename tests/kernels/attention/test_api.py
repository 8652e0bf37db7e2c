import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels.attention import Prefix, attention
from tests.kernels.attention.cases import BACKENDS, CASES, evaluate, expected, fits, visible

# Of the norm. float32 and float64: scores are sums of 16 products, a probability is the exponential of a difference
# of numbers below 8, each rounded: some units in the last place. bfloat16: probabilities, results and their
# cotangents are rounded to 2^-9 each.
TOLERANCE = {"float32": 1e-6, "float64": 1e-14, "bfloat16": 1e-2}


# What compiles long and is like another one; the races' test runs two of them.
LONG = {
    ("causal", "pallas_tpu"),
    ("bf16", "pallas_tpu"),
    ("one head of keys, one token", "pallas_tpu"),
    ("as many heads of keys, random tries", "pallas_tpu"),
    ("soft cap, scale", "pallas_tpu"),
    ("prefix", "shared_prefix on pallas_tpu"),
    ("prefix, padded rows", "shared_prefix on pallas_tpu"),
    ("prefix of one group, window, soft cap", "shared_prefix on pallas_tpu"),
    ("f64 prefix of every row", "xla"),
    ("f64 prefix of every row", "shared_prefix"),
    *(("f64 segments", backend) for backend in BACKENDS),
    *(("few tries", backend) for backend in BACKENDS),
    *(("bf16 prefix", backend) for backend in BACKENDS),
}


def table(names):
    """Gives every case with every backend that takes it."""
    return [
        pytest.param(name, backend, marks=[pytest.mark.slow] if (name, backend) in LONG else [])
        for name in names
        for backend in BACKENDS
        if fits(CASES[name], backend)
    ]


@pytest.mark.parametrize(("name", "backend"), table(CASES))
def test_values_and_gradients(name, backend):
    case = CASES[name]
    arrays, want = expected(name)
    with jax.enable_x64(case.dtype == "float64"):
        got = evaluate(case, arrays, backend)
    for one, other in zip(got, want, strict=True):
        assert one.dtype == case.dtype
        one = np.asarray(one, np.float64)
        assert np.linalg.norm(one - other) <= TOLERANCE[case.dtype] * max(
            np.linalg.norm(other), np.linalg.norm(arrays[3])
        )
        if case.dtype != "bfloat16":  # the worst element too, as one of many hides in a norm
            assert np.abs(one - other).max() <= 8 * TOLERANCE[case.dtype] * max(1, np.abs(other).max())


PADDED = ("packed segments", "random tries", "prefix, padded rows")


@pytest.mark.parametrize(("name", "backend"), table(PADDED))
def test_padding_may_hold_anything_and_gets_zeros(name, backend):
    case = CASES[name]
    arrays, _ = expected(name)
    padding = ~visible(case).any(axis=2)
    assert padding.any() and not padding.all()
    poisoned = [np.where(padding[:, :, None, None], np.nan, x) for x in arrays[:4]]
    prefixes = list(arrays[4:])
    if case.prefixes:
        prefixes = [np.where(case.prefix_mask()[:, :, None, None], x, np.nan) for x in prefixes]
    clean, got = evaluate(case, arrays, backend), evaluate(case, [*poisoned, *prefixes], backend)
    for one, other in zip(got, clean, strict=True):
        np.testing.assert_array_equal(one, other)
    for x in clean[:4]:
        np.testing.assert_array_equal(np.asarray(x)[padding], 0)


def draw(rows=2, size=12, heads=4, kv_heads=2):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (rows, size, n, 8)) for i, n in enumerate((heads, kv_heads, kv_heads))
    )
    return {"q": q, "k": k, "v": v}


def test_layout_and_default_scale_are_those_of_jax():
    def both(q, k, v):
        want = jax.nn.dot_product_attention(q, k, v, is_causal=True, local_window_size=(2, 0))
        return attention(q, k, v, window=3), want

    np.testing.assert_allclose(*jax.jit(both)(**draw()), atol=1e-6)


def test_what_auto_takes_on_a_cpu_streams_where_scores_are_many():
    def scores(size):
        shape = jax.ShapeDtypeStruct((1, size, 4, 8), jnp.float32)
        text = str(jax.make_jaxpr(lambda q, k, v: attention(q, k, v))(shape, shape, shape))
        return f"{size},{size}]" in text, "while" in text

    assert scores(64) == (True, False)
    assert scores(1024) == (False, True)


def over_devices(backend, how):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    at = jax.P("data")
    q, k, v = draw(rows=4, size=40).values()
    prefix = Prefix(k[:, :5], v[:, :5], jnp.ones((4, 5), bool)) if backend == "shared_prefix" else None

    def gradients(q, k, v, prefix):
        def value(q, k, v):
            return jnp.sum(jnp.sin(attention(q, k, v, prefix=prefix, backend=backend, block=(16, 16))))

        return jax.grad(value, (0, 1, 2))(q, k, v)

    if how == "shard_map":
        sharded = jax.shard_map(gradients, mesh=mesh, in_specs=(at, at, at, at), out_specs=(at, at, at))
        got = jax.jit(sharded)(q, k, v, prefix)
    else:
        got = jax.jit(gradients, in_shardings=jax.NamedSharding(mesh, at))(q, k, v, prefix)
    want = jax.jit(gradients)(q, k, v, prefix)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), got, want)


@pytest.mark.parametrize(
    ("backend", "how"),
    [
        ("chunked", "shard_map"),
        pytest.param("chunked", "sharded arrays", marks=pytest.mark.slow),
        pytest.param("shared_prefix", "shard_map", marks=pytest.mark.slow),
        pytest.param("shared_prefix", "sharded arrays", marks=pytest.mark.slow),
        pytest.param("xla", "shard_map", marks=pytest.mark.slow),
    ],
)
def test_rows_over_devices_are_those_of_one(backend, how):
    over_devices(backend, how)


ENDS = jnp.full((2, 12), 12, jnp.int32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "chuncked"}, "unknown backend 'chuncked'; did you mean 'chunked'"),
        ({"backend": "splash"}, "backend 'splash' cannot run: splash runs on TPU, and this is cpu"),
        ({"backend": "cudnn"}, "backend 'cudnn' cannot run: cuDNN runs on NVIDIA GPUs, and this is cpu"),
        ({"backend": "pallas_tpu"}, "backend 'pallas_tpu' cannot run: pallas_tpu runs on TPU, and this is cpu"),
        ({"backend": "shared_prefix"}, "backend 'shared_prefix' cannot run: there is no prefix"),
        ({"backend": "splash", "ends": ENDS}, "it takes rows without trees and prefixes"),
        (
            {"k": jnp.zeros((2, 11, 2, 8)), "v": jnp.zeros((2, 11, 2, 8))},
            r"k is \(2, 11, 2, 8\) and v \(2, 11, 2, 8\) for q \(2, 12, 4, 8\)",
        ),
        (
            {"k": jnp.zeros((2, 12, 3, 8)), "v": jnp.zeros((2, 12, 3, 8))},
            "q has 4 heads for 3 of k; expected a multiple",
        ),
        ({"ends": ENDS, "segments": ENDS}, "ends are given with segments"),
        ({"ends": ENDS, "causal": False}, "or with causal=False"),
        ({"window": 3, "causal": False}, "window is 3, causal False"),
        ({"window": 0}, "window is 0, causal True; expected a positive window"),
        ({"window": 3, "ends": ENDS}, "a window in a tree needs positions"),
        ({"soft_cap": 0.0}, "soft_cap is 0.0; expected a positive number"),
        ({"block": (0, 16)}, r"block is \(0, 16\); expected two positive numbers"),
        ({"prefix": Prefix(*[jnp.zeros((3, 5, 2, 8))] * 2, jnp.ones((3, 5), bool))}, "P a divisor of B"),
        (
            {"prefix": Prefix(*[jnp.zeros((1, 5, 2, 8))] * 2, jnp.ones((1, 5), bool)), "backend": "chunked"},
            "it takes no prefix; shared_prefix, xla and reference do",
        ),
    ],
)
def test_mistakes_are_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        attention(**draw() | changes)
