"""Sums, means, spreads and selections under a mask. What a masked value is, NaN included, never matters."""

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
