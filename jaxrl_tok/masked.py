"""Sums, means, spreads, quantiles and selections under a mask. What a masked value is, NaN included, never matters."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped


def total(
    x: Float[Array, "*S"], mask: Bool[Array, "*S"], axis: int | None = None, axis_name: str | None = None
) -> Float[Array, "..."]:
    """Sums the unmasked values, keeping `axis`; over the shards of `axis_name` too, inside `shard_map`."""
    return _sum(jnp.where(mask, x, 0), axis, axis_name)


def count(
    mask: Bool[Array, "*S"], like: Float[Array, "..."], axis: int | None = None, axis_name: str | None = None
) -> Float[Array, "..."]:
    """Counts the unmasked places in the dtype of `like`, keeping `axis`."""
    return _sum(mask.astype(like.dtype), axis, axis_name)


def mean(
    x: Float[Array, "*S"], mask: Bool[Array, "*S"], axis: int | None = None, axis_name: str | None = None
) -> Float[Array, "..."]:
    """Averages the unmasked values, keeping `axis`; 0 where there are none."""
    return total(x, mask, axis, axis_name) / jnp.maximum(count(mask, x, axis, axis_name), 1)


def std(
    x: Float[Array, "*S"], mask: Bool[Array, "*S"], axis: int | None = None, axis_name: str | None = None
) -> Float[Array, "..."]:
    """Standard deviation of the unmasked values, unbiased (divides by n - 1), keeping `axis`.

    1 where there is no spread, so that it can be divided by and has a gradient.
    """
    centred = jnp.where(mask, x - mean(x, mask, axis, axis_name), 0)
    variance = _sum(centred**2, axis, axis_name) / jnp.maximum(count(mask, x, axis, axis_name) - 1, 1)
    return jnp.sqrt(jnp.where(variance > 0, variance, 1))


def bounds(
    x: Float[Array, "*S"], mask: Bool[Array, "*S"], axis: int | None = None, axis_name: str | None = None
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Smallest and largest unmasked value, keeping `axis`; 0 and 0 where there is none."""
    options = {"axis": axis, "keepdims": axis is not None}
    low = jnp.min(jnp.where(mask, x, jnp.inf), initial=jnp.inf, **options)
    high = jnp.max(jnp.where(mask, x, -jnp.inf), initial=-jnp.inf, **options)
    if axis_name is not None:
        low, high = jax.lax.pmin(low, axis_name), jax.lax.pmax(high, axis_name)
    return jnp.where(low <= high, low, 0), jnp.where(low <= high, high, 0)


def is_constant(x: Float[Array, "*S"], mask: Bool[Array, "*S"], axis: int) -> Bool[Array, "..."]:
    """Says whether all unmasked values are equal, keeping `axis`; True where there is none or one.

    Equality of the values, not a spread of 0: the mean of equal numbers may differ from them by a rounding.
    """
    above = jnp.max(jnp.where(mask, x, -jnp.inf), axis=axis, keepdims=True)
    below = jnp.min(jnp.where(mask, x, jnp.inf), axis=axis, keepdims=True)
    return above <= below


def per_token(x: Float[Array, "P G"], mask: Bool[Array, "P G T"]) -> Float[Array, "P G T"]:
    """Gives each trained token its completion's value, and 0 to the others."""
    return jnp.where(mask, x[:, :, None], 0)


def largest(
    x: Float[Array, "N M"],
    mask: Bool[Array, "N M"],
    k: Int[Array, " N"],
    *,
    keep_ties: bool = False,
    axis_name: str | None = None,
) -> Bool[Array, "N M"]:
    """Marks the k largest unmasked values of each row.

    Of values equal to the k-th largest the first ones are taken, so that exactly k are marked, or all of them
    with `keep_ties`. k = 0 marks none, k above the number of values marks all. Inside `shard_map` with
    `axis_name` the rows continue over the shards, in their order. The k-th largest is found by bisection over
    the bits of the values: as many passes over the data as a value has bits, which is several times faster
    than a sort.
    """
    bits = _ordered_bits(x, mask)
    k = k[:, None]
    threshold = _kth_largest(bits, k, axis_name)
    if keep_ties:
        return mask & (k > 0) & (bits >= threshold)
    above = bits > threshold
    ties = mask & (bits == threshold)
    return above | (ties & (_ordinal(ties, axis_name) <= k - _sum(above.astype(k.dtype), 1, axis_name)))


def top_fraction(x: Float[Array, "*S T"], mask: Bool[Array, "*S T"], fraction: float) -> Bool[Array, "*S T"]:
    """Marks the ceil(fraction * n) largest of the n unmasked values of each row, of equal ones the first.

    The product is rounded to float32 before, so that 0.4 of 35 is 14 and not 15, as in code that computes in float32.
    """
    rows, trained = x.reshape(-1, x.shape[-1]), mask.reshape(-1, mask.shape[-1])
    n = jnp.sum(trained, axis=1, dtype=jnp.float32)
    k = jnp.ceil(jnp.float32(fraction) * n).astype(jnp.int32)
    return largest(rows, trained, k).reshape(mask.shape)


def quantile(
    x: Float[Array, "N M"],
    mask: Bool[Array, "N M"],
    q: float,
    *,
    method: Literal["linear", "nearest"] = "linear",
    axis_name: str | None = None,
) -> Float[Array, "N 1"]:
    """Quantile of each row's unmasked values, 0 in a row without one.

    Of n sorted values it is the one at q * (n - 1): "linear" interpolates between its two neighbours as
    `numpy.quantile` does, "nearest" rounds, half to even. The values are not sorted but searched, as in
    `largest`; with `axis_name` the rows continue over the shards.
    """
    n = count(mask, x, 1, axis_name)
    position = q * jnp.maximum(n - 1, 0)
    position = jnp.round(position) if method == "nearest" else position
    index = jnp.floor(position)
    bits = _ordered_bits(x, mask)
    lower_bits = _kth_largest(bits, (n - index).astype(jnp.int32), axis_name)
    at_most = _sum((mask & (bits <= lower_bits)).astype(n.dtype), 1, axis_name)
    none = bits.dtype.type(jnp.iinfo(bits.dtype).max)
    upper_bits = jnp.min(jnp.where(bits > lower_bits, bits, none), axis=1, keepdims=True, initial=none)
    upper_bits = upper_bits if axis_name is None else jax.lax.pmin(upper_bits, axis_name)
    repeated = (at_most > index + 1) | (at_most >= n)  # the next value is equal, or there is none
    lower = _from_ordered_bits(lower_bits, x.dtype)
    upper = _from_ordered_bits(jnp.where(repeated, lower_bits, upper_bits), x.dtype)
    between = _interpolate(lower, upper, position - index)
    return jnp.where(n > 0, between, 0)


def _interpolate(lower: Float[Array, "N 1"], upper: Float[Array, "N 1"], share: Float[Array, "N 1"]) -> Array:
    """Goes from the nearer end, as NumPy does, so that both ends are met exactly."""
    step = jnp.where(lower < upper, upper - lower, 0)
    between = jnp.where(share < 0.5, lower + step * share, upper - step * (1 - share))
    return jnp.where(share > 0, between, lower)  # inf is no value to go to


def _sum(x: Array, axis: int | None, axis_name: str | None) -> Array:
    x = jnp.sum(x, axis=axis, keepdims=axis is not None, dtype=x.dtype)
    return x if axis_name is None else jax.lax.psum(x, axis_name)


def _ordered_bits(x: Float[Array, "N M"], mask: Bool[Array, "N M"]) -> Shaped[Array, "N M"]:
    """Maps floats to unsigned integers in the same order; masked places to 0, below every number."""
    x = x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(jnp.where(x == 0, 0, x), unsigned)  # -0 and 0 are equal
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    ordered = jnp.where(bits >= sign, ~bits, bits | sign)
    return jnp.where(mask, ordered, unsigned.type(0))


def _from_ordered_bits(bits: Shaped[Array, "N 1"], dtype: jnp.dtype) -> Float[Array, "N 1"]:
    """The float that `_ordered_bits` maps to these bits."""
    unsigned = bits.dtype
    sign = unsigned.type(1 << (8 * unsigned.itemsize - 1))
    original = jnp.where(bits >= sign, bits ^ sign, ~bits)
    return jax.lax.bitcast_convert_type(original, jnp.dtype(f"float{8 * unsigned.itemsize}")).astype(dtype)


def _kth_largest(bits: Shaped[Array, "N M"], k: Int[Array, "N 1"], axis_name: str | None) -> Shaped[Array, "N 1"]:
    """Largest threshold that at least k entries of the row reach, set bit by bit from the highest."""
    unsigned = bits.dtype.type
    width = 8 * bits.dtype.itemsize

    def set_bit(i: Array, threshold: Array) -> Array:
        trial = threshold | (unsigned(1) << (unsigned(width - 1) - i.astype(bits.dtype)))
        reached = _sum((bits >= trial).astype(k.dtype), 1, axis_name)
        return jnp.where(reached >= k, trial, threshold)

    start = jnp.zeros_like(k, bits.dtype)
    return jax.lax.fori_loop(0, width, set_bit, start)


def _ordinal(flags: Bool[Array, "N M"], axis_name: str | None) -> Int[Array, "N M"]:
    """Numbers the True places of each row from 1, over the shards in their order."""
    ordinal = jnp.cumsum(flags, axis=1, dtype=jnp.int32)
    if axis_name is None:
        return ordinal
    of_shard = jax.lax.all_gather(ordinal[:, -1], axis_name)
    before = jnp.arange(of_shard.shape[0]) < jax.lax.axis_index(axis_name)
    return ordinal + jnp.sum(jnp.where(before[:, None], of_shard, 0), axis=0, dtype=jnp.int32)[:, None]
