from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok import masked
from tests.conformance.fields import mesh

X = jnp.array([[1.0, 2.0, jnp.nan, 4.0], [jnp.inf, 3.0, 3.0, 3.0], [jnp.nan, 5.0, jnp.nan, 6.0]])
MASK = jnp.array([[True, True, False, True], [False, True, True, True], [False, False, False, False]])


def test_sums_counts_and_means_of_rows_and_of_all():
    np.testing.assert_array_equal(masked.total(X, MASK, axis=1)[:, 0], [7, 9, 0])
    np.testing.assert_array_equal(masked.count(MASK, X, axis=1)[:, 0], [3, 3, 0])
    np.testing.assert_allclose(masked.mean(X, MASK, axis=1)[:, 0], [7 / 3, 3, 0], rtol=1e-6)
    assert masked.mean(X, MASK) == pytest.approx(16 / 6)


def test_std_is_unbiased_and_one_where_there_is_no_spread():
    expected = [np.std([1, 2, 4], ddof=1), 1, 1]
    np.testing.assert_allclose(masked.std(X, MASK, axis=1)[:, 0], expected, rtol=1e-6)
    assert masked.std(X, MASK) == pytest.approx(np.std([1, 2, 4, 3, 3, 3], ddof=1))


def test_is_constant_goes_by_equality():
    np.testing.assert_array_equal(masked.is_constant(X, MASK, axis=1)[:, 0], [False, True, True])
    one_ulp = jnp.array([[0.9, np.nextafter(np.float32(0.9), np.float32(1))]])
    assert not masked.is_constant(one_ulp, jnp.ones((1, 2), bool), axis=1)[0, 0]
    assert masked.is_constant(jnp.full((1, 2), 0.9), jnp.ones((1, 2), bool), axis=1)[0, 0]


@pytest.mark.parametrize("keep_ties", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_largest_is_a_stable_sort(keep_ties, dtype):
    rng = np.random.default_rng(0)
    x = rng.choice([-np.inf, -3.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 7.0, np.inf], (6, 20))
    mask = rng.random((6, 20)) < 0.8
    x = np.asarray(jnp.asarray(x, dtype), np.float64)
    k = np.array([0, 1, 5, 11, 3, 99])
    result = masked.largest(
        jnp.asarray(np.where(mask, x, np.nan), dtype), jnp.asarray(mask), jnp.asarray(k), keep_ties=keep_ties
    )
    for row in range(6):
        order = [i for i in np.argsort(-x[row], kind="stable") if mask[row, i]][: k[row]]
        expected = np.isin(np.arange(20), order)
        if keep_ties and order:
            expected = mask[row] & (x[row] >= x[row, order[-1]])
        np.testing.assert_array_equal(result[row], expected)


def test_largest_continues_over_shards_in_their_order():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.choice([1.0, 2.0, 3.0], (1, 16)), jnp.float32)
    mask = jnp.asarray(rng.random((1, 16)) < 0.8)
    k = jnp.array([6])
    expected = masked.largest(x, mask, k)
    row, whole = PartitionSpec(None, "data"), PartitionSpec()
    sharded = jax.shard_map(
        lambda *a: masked.largest(*a, axis_name="data"),
        mesh=mesh(),
        in_specs=(row, row, whole),
        out_specs=row,
    )
    np.testing.assert_array_equal(jax.jit(sharded)(x, mask, k), expected)
    assert int(expected.sum()) == 6


@pytest.mark.parametrize("method", ["linear", "nearest"])
def test_quantile_is_numpys(method):
    """Rows of ties, of infinities, of one value; float64, where the interpolation has no rounding to speak of."""
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.normal(size=(4, 11)), rng.choice([-1.0, 0.5, np.inf], (2, 11))])
    mask = rng.random((6, 11)) < 0.8
    mask[0] = [True] + [False] * 10
    with jax.enable_x64(True):
        arrays = jnp.asarray(np.where(mask, x, np.nan)), jnp.asarray(mask)
        for q in (0.0, 0.35, 0.8, 1.0):
            result = np.asarray(jax.jit(partial(masked.quantile, q=q, method=method))(*arrays))[:, 0]
            for row in range(6):
                values = np.sort(x[row, mask[row]])
                if method == "nearest":
                    assert result[row] == values[round(q * (len(values) - 1))]
                elif np.isfinite(values).all():
                    assert result[row] == pytest.approx(np.quantile(values, q), rel=1e-15)


def test_quantile_in_float32_meets_both_ends_and_gives_zero_for_an_empty_row():
    x = jnp.array([[3.0, 1.0, 2.0, 7.0], [5.0, 5.0, 5.0, 5.0], [jnp.nan] * 4])
    mask = jnp.array([[True, True, True, False], [True] * 4, [False] * 4])
    for q, expected in ((0.25, [1.5, 5, 0]), (1.0, [3, 5, 0])):
        np.testing.assert_array_equal(jax.jit(partial(masked.quantile, q=q))(x, mask)[:, 0], expected)
    half = jax.jit(partial(masked.quantile, q=0.25))(x.astype(jnp.bfloat16), mask)
    assert half.dtype == jnp.bfloat16 and half[0, 0] == 1.5


def test_quantile_and_bounds_continue_over_shards():
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(1, 16)), jnp.float32)
    mask = jnp.asarray(rng.random((1, 16)) < 0.7)
    row, whole = PartitionSpec(None, "data"), PartitionSpec()

    def local(x, mask):
        low, high = masked.bounds(x, mask, axis=1, axis_name="data")
        return masked.quantile(x, mask, 0.35, axis_name="data"), low, high

    sharded = jax.shard_map(local, mesh=mesh(), in_specs=row, out_specs=whole)
    values = np.asarray(x)[np.asarray(mask)]
    expected = [np.quantile(values, 0.35), values.min(), values.max()]
    np.testing.assert_allclose(np.ravel(jax.jit(sharded)(x, mask)), expected, rtol=1e-6)


def test_bounds_of_rows_and_of_all():
    low, high = masked.bounds(X, MASK, axis=1)
    np.testing.assert_array_equal(jnp.stack([low, high])[:, :, 0], [[1, 3, 0], [4, 3, 0]])
    assert masked.bounds(X, MASK) == (1, 4)


def test_top_fraction_rounds_the_product_to_float32():
    """0.4 * 35 is 14.000000000000002 in float64, and 14 in float32."""
    ones = jnp.ones((1, 35), bool)
    half, share = (jax.jit(partial(masked.top_fraction, fraction=fraction)) for fraction in (0.5, 0.4))
    assert share(jnp.arange(35.0)[None], ones).sum() == 14
    np.testing.assert_array_equal(half(X, MASK), [[0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 0, 0]])
