"""Which blocks of queries and keys have anything to do with each other."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrl_tok.kernels.attention.spans import Spans
from jaxrl_tok.types import Leaf


class Blocks(NamedTuple):
    """The pairs of blocks that must be visited."""

    live: Leaf  # bool[B, I, J], some query of block i sees some key of block j
    full: Leaf  # bool[B, I, J], every query of block i sees every key of block j


def classify(spans: Spans, queries: int, block: tuple[int, int]) -> Blocks:
    """Returns which pairs of blocks are live and which are full, of spans padded to whole blocks.

    Exact, but for a window in a tree: there a pair may be called live whose keys are all too far.
    """
    bq, bk = block
    first = bq * jnp.arange(queries // bq, dtype=jnp.int32)[None, :, None]
    start, end = spans.start[:, None], spans.end[:, None]
    live = (start < first + bq) & (end > first) & (start < end)
    full = (start <= first) & (end >= first + bq)
    if spans.limit is not None:
        positions = spans.positions.reshape(len(spans.positions), -1, bq)
        live &= positions.min(axis=2)[:, :, None] < spans.limit[:, None]
        full &= positions.max(axis=2)[:, :, None] < spans.limit[:, None]

    def by_block(x: Bool[Array, "B I U"]) -> Bool[Array, "B I J bk"]:
        return x.reshape(*x.shape[:2], -1, bk)

    return Blocks(by_block(live).any(axis=3), by_block(full).all(axis=3))


def partners(live: Bool[Array, "B I J"]) -> tuple[Int[Array, "B I J"], Int[Array, " I"]]:
    """Returns for each i its live partners first, then the others; and the most live ones that any row has."""
    order = jnp.argsort(~live, axis=2, stable=True).astype(jnp.int32)
    return order, live.sum(axis=2, dtype=jnp.int32).max(axis=0, initial=0)


def pairs(live: Bool[Array, "B I J"], full: Bool[Array, "B I J"]) -> tuple[Int[Array, " L"], Int[Array, ""]]:
    """Returns all live pairs of all rows in order, as 2 * ((b * I + i) * J + j) + full, and how many there are.

    One list, so that a grid over it has as many steps as there is work. What follows the last pair is 0.
    """
    flat = live.reshape(-1)
    (index,) = jnp.nonzero(flat, size=flat.size, fill_value=0)
    count = flat.sum(dtype=jnp.int32)
    index = index.astype(jnp.int32)
    entries = 2 * index + full.reshape(-1)[index].astype(jnp.int32)
    return jnp.where(jnp.arange(flat.size, dtype=jnp.int32) < count, entries, 0), count
