"""Attention with XLA alone, on any platform: a flash loop that visits live blocks only.

Temporaries are the inputs in blocks, one block of scores, and sums in the accumulation type: linear in T. Five
matmuls a block backward: the gradient of queries is gathered while the loop runs over the queries of each key
block. Rows of a batch go through the loops together, each with its own blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxrl_tok.kernels.attention import block_sizes
from jaxrl_tok.kernels.attention.blocks import classify, partners
from jaxrl_tok.kernels.attention.common import HIDDEN, LOWEST, Options, accumulation, capped, heads_apart, pad
from jaxrl_tok.kernels.attention.spans import Spans, padded, seen
from jaxrl_tok.types import Leaf


class _Problem(NamedTuple):
    """The inputs, cut into blocks that lie in one piece."""

    q: Leaf  # [B, I, K, bq * M, H], the M heads of a query next to each other
    k: Leaf  # [B, J, K, bk, H]
    v: Leaf  # [B, J, K, bk, H]
    spans: Spans  # of queries [B, I, bq], of keys [B, J, bk]
    live: Leaf  # bool[B, I, J]
    bq: int


def forward(
    q: Float[Array, "B T N H"], k: Float[Array, "B U K H"], v: Float[Array, "B U K H"], spans: Spans, options: Options
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Returns the weighted means of values, and log-normalisers."""
    problem = _cut(q, k, v, spans, options)
    bq = problem.bq
    order, counts = partners(problem.live)
    dtype, rows = accumulation(q), len(q)

    def of_queries(i: Array) -> tuple[Array, Array]:
        queries = problem.q[:, i]

        def step(n: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            top, total, mean = carry
            j = order[:, i, n]
            s, _ = _scores(problem, queries, jnp.full((rows,), i, jnp.int32), j, options)
            higher = jnp.maximum(top, s.max(axis=-1))
            shrink, p = jnp.exp(top - higher), jnp.exp(s - higher[..., None])
            part = _dot("BKTU,BKUH->BKTH", p.astype(v.dtype), _take(problem.v, j), dtype)
            return higher, shrink * total + p.sum(axis=-1), shrink[..., None] * mean + part

        mean = jnp.zeros_like(queries, dtype=dtype)
        total = mean[..., 0]
        top, total, mean = jax.lax.fori_loop(0, counts[i], step, (total + dtype.type(LOWEST), total, mean))
        some = jnp.where(total > 0, total, 1)
        return (mean / some[..., None]).astype(q.dtype), top + jnp.log(some)

    o, lse = jax.lax.map(of_queries, jnp.arange(problem.q.shape[1], dtype=jnp.int32))
    return _queries_back(o, bq, q.shape), _queries_back(lse[..., None], bq, q.shape)[..., 0]


def backward(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B U K H"],
    v: Float[Array, "B U K H"],
    spans: Spans,
    lse: Float[Array, "B T N"],
    delta: Float[Array, "B T N"],
    d_o: Float[Array, "B T N H"],
    options: Options,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B U K H"], Float[Array, "B U K H"]]:
    """Returns the gradients of q, k and v."""
    problem = _cut(q, k, v, spans, options)
    bq = problem.bq
    order, counts = partners(problem.live.swapaxes(1, 2))
    dtype, rows = accumulation(q), len(q)
    d_o = _queries_cut(d_o.astype(v.dtype), k.shape[2], bq)
    lse, delta = (_queries_cut(x[..., None], k.shape[2], bq)[..., 0] for x in (lse, delta))

    def of_keys(d_q: Array, j: Array) -> tuple[Array, tuple[Array, Array]]:
        keys, values = problem.k[:, j], problem.v[:, j]

        def step(n: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            d_q, d_k, d_v = carry
            i = order[:, j, n]
            queries, d_out = _take(problem.q, i), _take(d_o, i)
            s, slope = _scores(problem, queries, i, jnp.full((rows,), j, jnp.int32), options)
            p = jnp.exp(s - _take(lse, i)[..., None])
            d_s = p * (_dot("BKTH,BKUH->BKTU", d_out, values, dtype) - _take(delta, i)[..., None])
            d_s = (d_s if slope is None else d_s * slope) * dtype.type(options.scale)
            p, d_s = p.astype(v.dtype), d_s.astype(q.dtype)
            d_q = _add(d_q, i, _dot("BKTU,BKUH->BKTH", d_s, keys, dtype))
            d_k = d_k + _dot("BKTU,BKTH->BKUH", d_s, queries, dtype)
            return d_q, d_k, d_v + _dot("BKTU,BKTH->BKUH", p, d_out, dtype)

        zero = jnp.zeros_like(keys, dtype=dtype)
        d_q, d_k, d_v = jax.lax.fori_loop(0, counts[j], step, (d_q, zero, zero))
        return d_q, (d_k.astype(k.dtype), d_v.astype(v.dtype))

    d_q, (d_k, d_v) = jax.lax.scan(
        of_keys, jnp.zeros_like(problem.q, dtype=dtype), jnp.arange(problem.k.shape[1], dtype=jnp.int32)
    )
    d_q = _queries_back(d_q.swapaxes(0, 1).astype(q.dtype), bq, q.shape)
    return d_q, _keys_back(d_k, k.shape), _keys_back(d_v, v.shape)


def block_of(q: Array, k: Array, options: Options) -> tuple[int, int]:
    """Returns the sizes of the blocks of queries and keys, no larger than there is need for."""
    bq, bk = options.block or block_sizes.CHUNKED["others"]
    return min(bq, q.shape[1]), min(bk, k.shape[1])


def _cut(q: Array, k: Array, v: Array, spans: Spans, options: Options) -> _Problem:
    bq, bk = block = block_of(q, k, options)
    spans = padded(spans, bq, bk)
    live = classify(spans, q.shape[1] + -q.shape[1] % bq, block).live

    def keys_cut(x: Array) -> Array:
        x = pad(x, 1, bk)
        return x.reshape(len(x), -1, bk, *x.shape[2:]).swapaxes(2, 3)

    def spans_cut(x: Array | None, size: int) -> Array | None:
        return None if x is None else x.reshape(len(x), -1, size)

    start, end, limit = (spans_cut(x, bk) for x in (spans.start, spans.end, spans.limit))
    spans = Spans(start, end, spans_cut(spans.positions, bq), limit)
    return _Problem(_queries_cut(q, k.shape[2], bq), keys_cut(k), keys_cut(v), spans, live, bq)


def _queries_cut(x: Float[Array, "B T N H"], kv_heads: int, bq: int) -> Float[Array, "B I K R H"]:
    x = heads_apart(pad(x, 1, bq), kv_heads)
    rows, _, _, group, size = x.shape
    x = x.reshape(rows, -1, bq, kv_heads, group, size).swapaxes(2, 3)
    return x.reshape(rows, -1, kv_heads, bq * group, size)


def _queries_back(x: Float[Array, "I B K R H"], bq: int, shape: tuple[int, ...]) -> Float[Array, "B T N H"]:
    blocks, rows, kv_heads, _, size = x.shape
    x = x.reshape(blocks, rows, kv_heads, bq, -1, size).transpose(1, 0, 3, 2, 4, 5)
    return x.reshape(rows, blocks * bq, shape[2], size)[:, : shape[1]]


def _keys_back(x: Float[Array, "J B K bk H"], shape: tuple[int, ...]) -> Float[Array, "B U K H"]:
    x = x.transpose(1, 0, 3, 2, 4)
    return x.reshape(len(x), -1, *shape[2:])[:, : shape[1]]


def _scores(
    problem: _Problem, queries: Float[Array, "B K R H"], i: Int[Array, " B"], j: Int[Array, " B"], options: Options
) -> tuple[Float[Array, "B K R bk"], Array | None]:
    """Returns the scores of one pair of blocks in each row, hidden ones marked, and the slope of the cap."""
    dtype = accumulation(queries)
    s = _dot("BKTH,BKUH->BKTU", queries, _take(problem.k, j), dtype) * dtype.type(options.scale)
    s, slope = capped(s, options.soft_cap)
    spans = problem.spans
    start, end, limit = (None if x is None else _take(x, j) for x in (spans.start, spans.end, spans.limit))
    positions = None if spans.positions is None else _take(spans.positions, i)
    at = i[:, None] * problem.bq + jnp.arange(problem.bq, dtype=jnp.int32)[None]
    mask = seen(Spans(start, end, positions, limit), at)
    # Once for each of the heads that share keys.
    mask = jnp.broadcast_to(mask[:, :, None], (*mask.shape[:2], s.shape[2] // problem.bq, mask.shape[2]))
    return jnp.where(mask.reshape(len(mask), 1, -1, mask.shape[-1]), s, HIDDEN), slope


def _take(x: Array, at: Int[Array, " B"]) -> Array:
    """Returns block at[b] of each row b."""
    if len(at) == 1:  # a slice, where XLA would not see one in a gather
        return jax.lax.dynamic_index_in_dim(x, at[0], axis=1, keepdims=False)
    return jax.vmap(lambda row, n: jax.lax.dynamic_index_in_dim(row, n, keepdims=False))(x, at)


def _add(
    x: Float[Array, "B I K R H"], at: Int[Array, " B"], part: Float[Array, "B K R H"]
) -> Float[Array, "B I K R H"]:
    """Adds to block at[b] of each row b."""
    total = _take(x, at) + part
    if len(at) == 1:
        return jax.lax.dynamic_update_index_in_dim(x, total, at[0], axis=1)
    return jax.vmap(lambda row, n, new: jax.lax.dynamic_update_index_in_dim(row, new, n, axis=0))(x, at, total)


def _dot(equation: str, a: Array, b: Array, dtype: np.dtype) -> Array:
    return jnp.einsum(equation, a, b, preferred_element_type=dtype)
