"""Attention kernels for TPU, forward and backward: grids over exactly the live pairs of blocks.

The list of pairs is prefetched as scalars, and steers what each step loads. The forward pass and the gradient of
queries walk it query block by query block; the gradients of keys and values walk it key block by key block, whose
queries are one contiguous range. Heads that share keys are one step, so keys are loaded once for all of them. The
backward pass computes scores twice, and needs no memory beyond its results and two numbers a query and head.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.kernels.attention import block_sizes
from jaxrl_tok.kernels.attention.blocks import Blocks, classify, pairs
from jaxrl_tok.kernels.attention.common import HIDDEN, LOWEST, Options, capped, heads_apart, pad
from jaxrl_tok.kernels.attention.spans import Spans, padded
from jaxrl_tok.kernels.lazy import Lazy

pl: Any = Lazy("jax.experimental.pallas")
pltpu: Any = Lazy("jax.experimental.pallas.tpu")

LANES = 128
VMEM_BYTES = 48 * 2**20  # of 64 MiB on a v5p, the least of the chips
FAR = 2**31 - 1


def obstacle(platform: str, q: Array) -> str | None:
    """Returns why it cannot run, or None."""
    if platform != "tpu":
        return f"pallas_tpu runs on TPU, and this is {platform}"
    if q.dtype not in (jnp.bfloat16, jnp.float32):
        return f"pallas_tpu takes bfloat16 or float32, not {q.dtype}"
    return None


def block_of(q: Array, k: Array, options: Options) -> tuple[int, int]:
    """Returns the sizes of the blocks of queries and keys."""
    if options.block is not None:
        return options.block
    bq, bk = block_sizes.PALLAS_TPU
    fitting = block_sizes.PALLAS_TPU_ROWS * k.shape[2] // q.shape[2] // LANES * LANES
    return min(bq, max(fitting, LANES), pl.cdiv(q.shape[1], LANES) * LANES), min(bk, pl.cdiv(k.shape[1], LANES) * LANES)


class _Shape(NamedTuple):
    """Sizes of a problem in whole blocks."""

    rows: int  # B
    kv_heads: int  # K
    group: int  # M
    queries: int  # I, blocks
    keys: int  # J, blocks
    bq: int
    bk: int
    size: int  # H


class _Inputs(NamedTuple):
    """What all kernels read, padded to whole blocks."""

    q: Float[Array, "B K M Q H"]
    k: Float[Array, "B K U H"]
    v: Float[Array, "B K U H"]
    spans: Int[Array, "B 3 U"]  # start, end, limit
    positions: Int[Array, "B 1 T"]


def forward(
    q: Float[Array, "B T N H"], k: Float[Array, "B U K H"], v: Float[Array, "B U K H"], spans: Spans, options: Options
) -> tuple[Float[Array, "B T N H"], Float[Array, "B T N"]]:
    """Returns the weighted means of values, and log-normalisers."""
    inputs, shape, blocks = _prepare(q, k, v, spans, options)
    rows = (shape.group, shape.bq)
    o, lse = _call(
        _forward_kernel,
        inputs,
        (),
        pairs(blocks.live, blocks.full),
        shape,
        options,
        keys_outer=False,
        results=[("queries", q.dtype), ("numbers", jnp.float32)],
        scratch=[(*rows, shape.size), (*rows, LANES), (*rows, LANES)],
    )
    listed = _by_token(blocks.live.any(axis=2), shape.bq)[:, None, None]
    o = jnp.where(listed[..., None], o, 0)
    return _queries_back(o, q.shape), _queries_back(jnp.where(listed, lse, LOWEST)[..., None], q.shape)[..., 0]


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
    inputs, shape, blocks = _prepare(q, k, v, spans, options)
    kv_heads = shape.kv_heads
    numbers = [_queries_out(x[..., None], kv_heads, shape.bq)[..., 0] for x in (lse, delta)]
    more = (_queries_out(d_o.astype(v.dtype), kv_heads, shape.bq), *numbers)
    live, full = blocks
    (d_q,) = _call(
        _queries_kernel,
        inputs,
        more,
        pairs(live, full),
        shape,
        options,
        keys_outer=False,
        results=[("queries", q.dtype)],
        scratch=[(shape.group, shape.bq, shape.size)],
    )
    d_k, d_v = _call(
        _keys_kernel,
        inputs,
        more,
        pairs(live.swapaxes(1, 2), full.swapaxes(1, 2)),
        shape,
        options,
        keys_outer=True,
        results=[("keys", k.dtype), ("keys", v.dtype)],
        scratch=[(shape.bk, shape.size)] * 2,
    )
    d_q = jnp.where(_by_token(live.any(axis=2), shape.bq)[:, None, None, :, None], d_q, 0)
    keys_listed = _by_token(live.any(axis=1), shape.bk)[:, None, :, None]
    d_k, d_v = (jnp.where(keys_listed, x, 0).swapaxes(1, 2)[:, : k.shape[1]] for x in (d_k, d_v))
    return _queries_back(d_q, q.shape), d_k, d_v


def _prepare(q: Array, k: Array, v: Array, spans: Spans, options: Options) -> tuple[_Inputs, _Shape, Blocks]:
    bq, bk = block_of(q, k, options)
    spans = padded(spans, bq, bk)
    kv_heads = k.shape[2]
    queries = _queries_out(q, kv_heads, bq)
    keys, values = (pad(x, 1, bk).swapaxes(1, 2) for x in (k, v))
    rows, _, group, length, size = queries.shape
    blocks = classify(spans, length, (bq, bk))
    limit = jnp.full_like(spans.end, FAR) if spans.limit is None else spans.limit
    positions = jnp.zeros((rows, length), jnp.int32) if spans.positions is None else spans.positions
    inputs = _Inputs(queries, keys, values, jnp.stack([spans.start, spans.end, limit], axis=1), positions[:, None])
    return inputs, _Shape(rows, kv_heads, group, length // bq, keys.shape[2] // bk, bq, bk, size), blocks


def _queries_out(x: Float[Array, "B T N H"], kv_heads: int, bq: int) -> Float[Array, "B K M Q H"]:
    return heads_apart(pad(x, 1, bq), kv_heads).transpose(0, 2, 3, 1, 4)


def _queries_back(x: Float[Array, "B K M Q H"], shape: tuple[int, ...]) -> Float[Array, "B T N H"]:
    x = x.transpose(0, 3, 1, 2, 4)
    return x.reshape(*x.shape[:2], shape[2], x.shape[4])[:, : shape[1]]


def _by_token(listed: Bool[Array, "B I"], size: int) -> Bool[Array, "B T"]:
    return jnp.repeat(listed, size, axis=1)


class _Step(NamedTuple):
    """Where a grid step is in the list of pairs."""

    row: Array
    queries: Array  # its block of queries
    keys: Array  # and of keys
    full: Array


def _decode(entries: Any, n: Array, shape: _Shape, keys_outer: bool) -> _Step:
    index, full = entries[n] // 2, entries[n] % 2
    outer_size, inner_size = (shape.keys, shape.queries) if keys_outer else (shape.queries, shape.keys)
    outer, inner = index // inner_size, index % inner_size
    row, outer = outer // outer_size, outer % outer_size
    return _Step(row, inner, outer, full) if keys_outer else _Step(row, outer, inner, full)


def _bounds(entries: Any, inner_size: int) -> tuple[Array, Array]:
    """Returns whether this step is the first, and the last, of its outer block."""
    n, count = pl.program_id(1), pl.num_programs(1)

    def outer(m: Array) -> Array:
        return entries[m] // 2 // inner_size

    first = (n == 0) | (outer(n) != outer(jnp.maximum(n - 1, 0)))
    return first, (n == count - 1) | (outer(n) != outer(jnp.minimum(n + 1, count - 1)))


def _call(
    kernel: Callable,
    inputs: _Inputs,
    more: tuple[Array, ...],
    todo: tuple[Int[Array, " L"], Int[Array, ""]],
    shape: _Shape,
    options: Options,
    *,
    keys_outer: bool,
    results: list[tuple[str, Any]],
    scratch: list[tuple[int, ...]],
) -> tuple[Array, ...]:
    """Runs a kernel over (key/value heads, pairs)."""
    # Under shard_map a kernel's arrays must differ over the same axes, and so will its results.
    (entries, count), inputs, more = compat.vary_together((todo, inputs, more))
    kinds = _kinds(shape, keys_outer)
    kinds_read = ("queries", "keys", "keys", "spans", "positions", "queries", "numbers", "numbers")
    reads: list[tuple[Array, str]] = list(zip((*inputs, *more), kinds_read, strict=False))
    full = {
        "queries": inputs.q.shape,
        "numbers": inputs.q.shape[:-1],
        "keys": inputs.k.shape,
    }
    # A list without pairs still takes one step, whose block is hidden or masked away: no grid is empty.
    grid = (shape.kv_heads, jnp.maximum(count, 1))
    return tuple(
        pl.pallas_call(
            functools.partial(kernel, shape=shape, options=options),
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=1,
                grid=grid,
                in_specs=[kinds[kind] for _, kind in reads],
                out_specs=[kinds[kind] for kind, _ in results],
                scratch_shapes=[pltpu.VMEM(size, jnp.float32) for size in scratch],
            ),
            out_shape=[compat.shaped_like(inputs.q, full[kind], dtype) for kind, dtype in results],
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=VMEM_BYTES
            ),
            interpret=options.interpret,
            name=kernel.__name__.strip("_"),
        )(entries, *(x for x, _ in reads))
    )


def _kinds(shape: _Shape, keys_outer: bool) -> dict[str, Any]:
    """Returns the block of each kind of array, as a step reads or writes it."""

    def spec(block: tuple[int | None, ...], index: Callable[[Array, _Step], tuple]) -> Any:
        return pl.BlockSpec(block, lambda h, n, entries: index(h, _decode(entries, n, shape, keys_outer)))

    bq, bk = shape.bq, shape.bk
    return {
        "queries": spec((None, None, shape.group, bq, shape.size), lambda h, at: (at.row, h, 0, at.queries, 0)),
        "numbers": spec((None, None, shape.group, bq), lambda h, at: (at.row, h, 0, at.queries)),
        "keys": spec((None, None, bk, shape.size), lambda h, at: (at.row, h, at.keys, 0)),
        "spans": spec((None, 3, bk), lambda h, at: (at.row, 0, at.keys)),
        "positions": spec((None, 1, bq), lambda h, at: (at.row, 0, at.queries)),
    }


def _dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Multiplies over one axis of each; float32 in full, not in passes of bfloat16."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    dimensions = (((axes[0],), (axes[1],)), ((), ()))
    return jax.lax.dot_general(a, b, dimensions, precision=precision, preferred_element_type=jnp.float32)


def _column(x: Array) -> Array:
    return jnp.expand_dims(x, 1)


def _for_heads(at: _Step, shape: _Shape, spans: Any, positions: Any, keys_outer: bool, body: Callable) -> None:
    """Calls body(head, hide) for each head of the group; hide(s) marks hidden scores where there are any."""

    def run(hide: Callable[[Array], Array]) -> None:
        jax.lax.fori_loop(0, shape.group, lambda m, _: body(m, hide), None)

    @pl.when(at.full == 1)
    def _() -> None:
        run(lambda s: s)

    @pl.when(at.full == 0)
    def _() -> None:
        size = (shape.bk, shape.bq) if keys_outer else (shape.bq, shape.bk)
        query = at.queries * shape.bq + jax.lax.broadcasted_iota(jnp.int32, size, 1 if keys_outer else 0)
        if keys_outer:
            start, end, limit = (_column(spans[row, :]) for row in range(3))
            position = positions[...]
        else:
            start, end, limit = (spans[row : row + 1, :] for row in range(3))
            position = _column(positions[0, :])
        mask = (start <= query) & (query < end) & (position < limit)
        run(lambda s: jnp.where(mask, s, HIDDEN))


def _forward_kernel(
    entries, q, k, v, spans, positions, o, lse, mean, top, total, *, shape: _Shape, options: Options
) -> None:
    at = _decode(entries, pl.program_id(1), shape, False)
    first, last = _bounds(entries, shape.keys)

    @pl.when(first)
    def _() -> None:
        mean[...] = jnp.zeros_like(mean)
        top[...] = jnp.full_like(top, LOWEST)
        total[...] = jnp.zeros_like(total)

    def head(m: Array, hide: Callable) -> None:
        s, _ = capped(_dot(q[m], k[...], (1, 1)) * options.scale, options.soft_cap)
        s = hide(s)
        before = top[m][:, :1]
        higher = jnp.maximum(before, s.max(axis=1, keepdims=True))
        shrink, p = jnp.exp(before - higher), jnp.exp(s - higher)
        top[m] = jnp.broadcast_to(higher, top.shape[1:])
        total[m] = jnp.broadcast_to(shrink * total[m][:, :1] + p.sum(axis=1, keepdims=True), total.shape[1:])
        mean[m] = shrink * mean[m] + _dot(p.astype(v.dtype), v[...], (1, 0))

    _for_heads(at, shape, spans, positions, False, head)

    @pl.when(last)
    def _() -> None:
        some = jnp.where(total[...] > 0, total[...], 1)
        o[...] = (mean[...] / some[:, :, :1]).astype(o.dtype)
        lse[...] = (top[...] + jnp.log(some))[:, :, 0]


def _queries_kernel(
    entries, q, k, v, spans, positions, d_o, lse, delta, d_q, total, *, shape: _Shape, options: Options
) -> None:
    at = _decode(entries, pl.program_id(1), shape, False)
    first, last = _bounds(entries, shape.keys)

    @pl.when(first)
    def _() -> None:
        total[...] = jnp.zeros_like(total)

    def head(m: Array, hide: Callable) -> None:
        s, slope = capped(_dot(q[m], k[...], (1, 1)) * options.scale, options.soft_cap)
        p = jnp.exp(hide(s) - _column(lse[m]))
        d_s = p * (_dot(d_o[m], v[...], (1, 1)) - _column(delta[m]))
        d_s = (d_s if slope is None else d_s * slope) * options.scale
        total[m] += _dot(d_s.astype(k.dtype), k[...], (1, 0))

    _for_heads(at, shape, spans, positions, False, head)

    @pl.when(last)
    def _() -> None:
        d_q[...] = total[...].astype(d_q.dtype)


def _keys_kernel(
    entries, q, k, v, spans, positions, d_o, lse, delta, d_k, d_v, k_total, v_total, *, shape: _Shape, options: Options
) -> None:
    at = _decode(entries, pl.program_id(1), shape, True)
    first, last = _bounds(entries, shape.queries)

    @pl.when(first)
    def _() -> None:
        k_total[...] = jnp.zeros_like(k_total)
        v_total[...] = jnp.zeros_like(v_total)

    # Keys down, queries across: so no matrix is turned over for a product.
    def head(m: Array, hide: Callable) -> None:
        s, slope = capped(_dot(k[...], q[m], (1, 1)) * options.scale, options.soft_cap)
        p = jnp.exp(hide(s) - lse[m][None, :])
        d_s = p * (_dot(v[...], d_o[m], (1, 1)) - delta[m][None, :])
        d_s = (d_s if slope is None else d_s * slope) * options.scale
        v_total[...] += _dot(p.astype(d_o.dtype), d_o[m], (1, 0))
        k_total[...] += _dot(d_s.astype(q.dtype), q[m], (1, 0))

    _for_heads(at, shape, spans, positions, True, head)

    @pl.when(last)
    def _() -> None:
        d_k[...] = k_total[...].astype(d_k.dtype)
        d_v[...] = v_total[...].astype(d_v.dtype)
