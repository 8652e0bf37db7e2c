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
