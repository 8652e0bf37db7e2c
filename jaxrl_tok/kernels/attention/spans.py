"""Which queries see a key, as one interval a key: the only form of mask that the flash backends know.

    q sees k   iff   start[k] <= q < end[k]   (and position[q] < limit[k], for a window in a tree)

Causal order is [k, T), a packed segment [k, its end), a window of w tokens [k, k + w), a trie in depth-first
order [k, the end of k's subtree), a prefix that all see [0, T), and padding the empty [0, 0). Two integers a key
hold it all, so no mask is ever stored, and the queries that see any key of a block are one contiguous range.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrl_tok.kernels.attention.common import pad
from jaxrl_tok.types import Leaf


class Spans(NamedTuple):
    """The interval of queries that see each key."""

    start: Leaf  # i32[B, U]
    end: Leaf  # i32[B, U]
    positions: Leaf = None  # i32[B, T] of queries, or None where no window counts them
    limit: Leaf = None  # i32[B, U], the first position that is too far from the key


def row_spans(
    rows: int, size: int, causal: bool, segments: Int[Array, "B T"] | None, window: int | None
) -> tuple[Spans, Bool[Array, "B T"] | None]:
    """Returns the spans of rows of tokens, and which tokens are real; None if all are."""
    at = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (rows, size))
    if segments is None:
        start, end, valid = jnp.zeros_like(at), jnp.full_like(at, size), None
    else:
        start, end = _runs(segments, at)
        valid = segments >= 0
    if causal:
        start = at
    if window is not None:
        end = jnp.minimum(end, at + window)
    if valid is not None:
        start, end = jnp.where(valid, start, 0), jnp.where(valid, end, 0)
    return Spans(start, end), valid


def tree_spans(
    ends: Int[Array, "B T"], positions: Int[Array, "B T"] | None, window: int | None
) -> tuple[Spans, Bool[Array, "B T"]]:
    """Returns the spans of rows of packed tries, and which tokens are real."""
    at = jnp.broadcast_to(jnp.arange(ends.shape[1], dtype=jnp.int32), ends.shape)
    valid = ends > at
    start = jnp.where(valid, at, 0)
    end = jnp.where(valid, jnp.minimum(ends, ends.shape[1]), 0).astype(jnp.int32)
    if window is None or positions is None:
        return Spans(start, end), valid
    positions = positions.astype(jnp.int32)
    return Spans(start, end, positions, positions + window), valid


def prefix_spans(mask: Bool[Array, "P S"], queries: int, positions: Int[Array, "P Q"], window: int | None) -> Spans:
    """Returns the spans of a prefix that all queries of a group see.

    `positions` count from the first token after the prefix; its own tokens have -1 and less.
    """
    start = jnp.zeros(mask.shape, jnp.int32)
    end = jnp.where(mask, queries, 0).astype(jnp.int32)
    if window is None:
        return Spans(start, end)
    behind = jnp.cumsum(mask[:, ::-1], axis=1, dtype=jnp.int32)[:, ::-1]
    return Spans(start, end, positions, window - behind)


def seen(spans: Spans, queries: Int[Array, "B T"]) -> Bool[Array, "B T U"]:
    """Returns which keys the queries of given indices see; `spans.positions` are those of these queries."""
    at = queries[:, :, None]
    result = (spans.start[:, None] <= at) & (at < spans.end[:, None])
    return result if spans.limit is None else result & (spans.positions[:, :, None] < spans.limit[:, None])


def padded(spans: Spans, queries: int, keys: int) -> Spans:
    """Pads to multiples of the block sizes, with keys that no query sees."""
    start, end, limit = (None if x is None else pad(x, 1, keys) for x in (spans.start, spans.end, spans.limit))
    return Spans(start, end, None if spans.positions is None else pad(spans.positions, 1, queries), limit)


def run_ids(segments: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """Returns the number of the run of equal ids that each token lies in, -1 for padding."""
    changes = jnp.cumsum(segments[:, 1:] != segments[:, :-1], axis=1, dtype=jnp.int32)
    return jnp.where(segments >= 0, jnp.pad(changes, ((0, 0), (1, 0))), -1)


def _runs(segments: Int[Array, "B T"], at: Int[Array, "B T"]) -> tuple[Int[Array, "B T"], Int[Array, "B T"]]:
    """Returns where the run of equal ids that holds each token starts, and where it ends."""
    size = segments.shape[1]
    changes = segments[:, 1:] != segments[:, :-1]
    first = jnp.pad(changes, ((0, 0), (1, 0)), constant_values=True)
    last = jnp.pad(changes, ((0, 0), (0, 1)), constant_values=True)
    start = jax.lax.cummax(jnp.where(first, at, 0), axis=1)
    end = jax.lax.cummin(jnp.where(last, at + 1, size), axis=1, reverse=True)
    return start, end
