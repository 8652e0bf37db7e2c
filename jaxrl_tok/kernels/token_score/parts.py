"""Runs a backend where the head lies in parts: the vocabulary split over devices, or D split and gathered.

Over `vocab_axis` each device sums over its own columns, and the sums are merged: their maxima by one collective,
all else by another. Over `fsdp_axis` a device holds a share of D of every column; tiles of columns are gathered
one after the other, and the gradient of each is scattered back before the next is made, so that no device ever
holds the whole head or its whole gradient.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok import compat
from jaxrl_tok.kernels.token_score import block_sizes
from jaxrl_tok.kernels.token_score.chunked import capped, einsum
from jaxrl_tok.kernels.token_score.common import (
    ADDITIVE,
    Coefficients,
    Options,
    Rows,
    Sums,
    Tree,
    columns_of,
    merge,
    nothing,
    scaled,
    sweep,
)


def forward(run: Callable[..., Sums], rows: Rows, head: Array, options: Options) -> Sums:
    """Returns a backend's sums over the whole vocabulary; columns are numbered through all shards."""

    def part_of(start: Array | int, size: int) -> Sums:
        first = first_column(head, start, options)
        part = rows if first is None else rows._replace(targets=rows.targets - first)
        tile = tile_of(head, start, size, options)
        sums = run(part, tile, options, limit_of(size, first, options))
        if sums.argmax is not None and first is not None:
            sums = sums._replace(argmax=sums.argmax + first)
        return sums

    sums = over_tiles(part_of, merge, lambda: nothing(rows, options), head, options)
    return over_shards(sums, options.vocab_axis)


def backward(
    run: Callable[..., tuple[Array, Array | None]],
    rows: Rows,
    head: Array,
    coefficients: Coefficients,
    options: Options,
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns this device's part of hidden's gradient, and the gradient of its part of the head."""

    def gradients(tile: Array, start: Array | int) -> tuple[Array, Array | None]:
        first = first_column(head, start, options)
        part = rows if first is None else rows._replace(targets=rows.targets - first)
        return run(part, tile, coefficients, options, limit_of(tile.shape[options.columns], first, options))

    return through_tiles(gradients, rows.hidden, head, rows.inv_temperature.dtype, options)


def through_tiles(
    gradients: Callable[[Array, Array | int], tuple[Array, Array | None]],
    hidden: Array,
    head: Array,
    dtype: Any,
    options: Options,
) -> tuple[Float[Array, "N D"], Array | None]:
    """Folds gradients(tile, start) of hidden and of each tile into those of hidden and of the head."""
    if options.fsdp_axis is None:
        return gradients(head, 0)
    axis, split = options.fsdp_axis, 1 - options.columns

    def step(total: tuple[Array, Array | None], start: Array | int, size: int) -> tuple[Array, Array | None]:
        d_hidden, d_head = total
        d_part, d_tile = gradients(tile_of(head, start, size, options), start)
        if d_head is not None and d_tile is not None:
            d_tile = jax.lax.psum_scatter(d_tile.astype(dtype), axis, scatter_dimension=split, tiled=True)
            d_head = jax.lax.dynamic_update_slice_in_dim(d_head, d_tile.astype(head.dtype), start, options.columns)
        return d_hidden + d_part, d_head

    d_head = jnp.zeros_like(head) if options.head_grad else None
    total = jnp.zeros_like(hidden, dtype=dtype), d_head
    return sweep(step, total, head.shape[options.columns], _gathered_block(head, options))


def whole_gradient(d_hidden: Array, hidden: Array, options: Options) -> Array:
    """Returns the gradient of hidden from each device's part of it, in the type of hidden.

    Where hidden is the same on all shards of the vocabulary, theirs add up, before rounding to half precision.
    Where it varies over them, `hidden` on each is a variable of its own, which whoever made it vary adds up.
    """
    if options.vocab_axis is not None and options.vocab_axis not in compat.varying_axes(hidden):
        d_hidden = jax.lax.psum(d_hidden, options.vocab_axis)
    return d_hidden.astype(hidden.dtype)


def target_logits(rows: Rows, head: Array, options: Options) -> Array:
    """Returns each target's logit by a dot product of its own, [N] or [N, K] as the targets."""

    def part_of(start: Array | int, size: int) -> Array:
        tile, first = tile_of(head, start, size, options), first_column(head, start, options)
        places = rows.targets if first is None else rows.targets - first
        return _dots(rows, tile, places, options)

    def nowhere() -> Array:
        return jnp.zeros_like(rows.targets, dtype=rows.inv_temperature.dtype)

    found = over_tiles(part_of, jnp.add, nowhere, head, options)
    return found if options.vocab_axis is None else jax.lax.psum(found, options.vocab_axis)


def _dots(rows: Rows, head: Array, places: Array, options: Options) -> Array:
    """Returns the logits of these columns, 0 for those outside; one target of every row at a time."""
    if places.ndim > 1:
        return jax.lax.map(lambda one: _dots(rows, head, one, options), places.T).T
    inside = (places >= 0) & (places < head.shape[options.columns])
    columns = jnp.take(head, jnp.where(inside, places, 0), axis=options.columns)
    raw = einsum(f"nd,{options.layout.replace('v', 'n')}->n", rows.hidden, columns, rows.inv_temperature.dtype)
    z, _ = capped(raw, options)
    return jnp.where(inside, z * rows.inv_temperature, 0)


def over_shards(sums: Sums, axis: str | None) -> Sums:
    """Merges the sums of all devices along a mesh axis; the first of equal logits is the largest one."""
    if axis is None:
        return sums
    max_logit = jax.lax.pmax(sums.max_logit, axis)
    relative = scaled(sums, max_logit)
    names = [name for name in ADDITIVE if getattr(sums, name) is not None]
    totals = jax.lax.psum(jnp.stack([getattr(relative, name) for name in names]), axis)
    merged = dict(zip(names, totals, strict=True))
    largest = sums.max_logit == max_logit
    if sums.argmax is not None:
        last = jnp.iinfo(sums.argmax.dtype).max
        merged["argmax"] = jax.lax.pmin(jnp.where(largest, sums.argmax, last), axis)
    if sums.second_logit is not None:
        shard = jax.lax.axis_index(axis)
        winner = jax.lax.pmin(jnp.where(largest, shard, jax.lax.axis_size(axis)), axis)
        rest = jnp.where(winner == shard, sums.second_logit, sums.max_logit)
        merged["second_logit"] = jax.lax.pmax(rest, axis)
    return Sums(max_logit=max_logit, **merged)


def over_tiles(
    part_of: Callable[[Any, int], Tree],
    merge: Callable[[Tree, Tree], Tree],
    empty: Callable[[], Tree],
    head: Array,
    options: Options,
) -> Tree:
    """Merges part_of(start, size) of the tiles that are gathered, or takes all columns as one tile."""
    columns = head.shape[options.columns]
    if options.fsdp_axis is None:
        return part_of(0, columns)
    block = _gathered_block(head, options)
    return sweep(lambda total, start, size: merge(total, part_of(start, size)), empty(), columns, block)


def _gathered_block(head: Array, options: Options) -> int:
    return min(options.block or block_sizes.GATHERED_BLOCK, head.shape[options.columns])


def tile_of(head: Array, start: Array | int, size: int, options: Options) -> Array:
    """Returns a tile of this device's columns, whole along D."""
    if options.fsdp_axis is None:
        return head
    part = columns_of(head, start, size, options)
    return jax.lax.all_gather(part, options.fsdp_axis, axis=1 - options.columns, tiled=True)


def first_column(head: Array, start: Array | int, options: Options) -> Array | None:
    """Returns the number of a tile's first column in the whole vocabulary; None for 0, where nothing is split."""
    if options.vocab_axis is None:
        return None if options.fsdp_axis is None else jnp.int32(start)
    return jax.lax.axis_index(options.vocab_axis) * head.shape[options.columns] + jnp.int32(start)


def limit_of(columns: int, first: Array | None, options: Options) -> Array | None:
    """Returns how many of a tile's columns are tokens; None if all are in every tile."""
    if options.vocabulary is None:
        return None
    rest = jnp.int32(options.vocabulary) - (jnp.int32(0) if first is None else first)
    return jnp.clip(rest, 0, columns)


def vocabulary_of(head: Array, options: Options) -> int:
    """Returns the number of tokens in the whole vocabulary."""
    shards = 1 if options.vocab_axis is None else jax.lax.axis_size(options.vocab_axis)
    return options.vocabulary or head.shape[options.columns] * shards
