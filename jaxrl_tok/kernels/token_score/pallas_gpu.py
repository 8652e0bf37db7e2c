"""Token scoring for GPU: a Triton kernel that streams over the head, and never writes a logit to memory.

Each program takes a block of rows and a share of the vocabulary; the shares of a row are merged at the end. Where
matmuls are as fast as those of cuBLAS against memory, `chunked` may well be faster: this kernel is asked for by name.
The backward pass is that of `chunked`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok import compat
from jaxrl_tok.kernels import device
from jaxrl_tok.kernels.lazy import Lazy
from jaxrl_tok.kernels.token_score import block_sizes, tiling
from jaxrl_tok.kernels.token_score.chunked import Logits, block_sums, capped
from jaxrl_tok.kernels.token_score.common import Options, Rows, Sums, merge, nothing, unfused, wider
from jaxrl_tok.kernels.token_score.tiling import Blocks

pl: Any = Lazy("jax.experimental.pallas")
triton: Any = Lazy("jax.experimental.pallas.triton")

# Programs that keep a GPU of 132 multiprocessors busy, two on each.
PROGRAMS = 264
WARPS, STAGES = 8, 3


def obstacle(rows: Rows, head: Array, options: Options) -> str | None:
    """Returns why it cannot run on these arrays, here; None if it can."""
    platform = device.target().platform
    if platform != "gpu":
        return f"it runs on GPU, and this is {platform}"
    for x in (rows.hidden, head):
        if x.dtype not in (jnp.bfloat16, jnp.float16, jnp.float32):
            return f"it takes bfloat16, float16 or float32, not {x.dtype}"
    return None


def forward(
    rows: Rows,
    head: Array,
    options: Options,
    limit: Array | None = None,
    *,
    blocks: Blocks | None = None,
    interpret: bool = False,
) -> Sums:
    """Returns the sums over the kept tokens among the first `limit` columns.

    Args:
        rows: the tokens.
        head: the columns.
        options: the static half of the problem; its `block` is the table's, whatever it says.
        limit: i32[], the columns that are tokens; all by default.
        blocks: the sizes of a step, powers of two from 16; from the table by default.
        interpret: runs on any platform, slowly.
    """
    (tokens, size), columns = rows.hidden.shape, head.shape[options.columns]
    if tokens == 0:
        return nothing(rows, options)
    blocks = blocks or tiling.listed(block_sizes.PALLAS_GPU, device.target().kind, size, columns)
    steps, tiles = pl.cdiv(columns, blocks.columns), pl.cdiv(tokens, blocks.rows)
    shares = min(steps, pl.cdiv(PROGRAMS, tiles))
    whole = jnp.full((1,), columns, jnp.int32) if limit is None else jnp.reshape(limit, (1,)).astype(jnp.int32)
    numbers = {name: x for name, x in rows._asdict().items() if name != "hidden" and x is not None}
    plan = _Plan(
        sums=("max_logit", "sum_exp", "sum_exp_shifted", "target_logit", *options.extras),
        numbers=tuple(numbers),
        blocks=blocks,
        steps=pl.cdiv(steps, shares),
        ragged=limit is not None or columns % (shares * pl.cdiv(steps, shares) * blocks.columns) != 0,
        options=options,
    )
    found = _call((whole, rows.hidden, head, *numbers.values()), (tiles, shares), plan, interpret)
    parts = Sums(**dict(zip(plan.sums, found, strict=True)))
    first, rest = jax.tree.map(lambda x: x[0], parts), jax.tree.map(lambda x: x[1:], parts)
    return jax.lax.scan(lambda total, part: (merge(total, part), None), first, rest)[0]


class _Plan(NamedTuple):
    """The static half of a call."""

    sums: tuple[str, ...]  # names of the fields of `Sums`
    numbers: tuple[str, ...]  # names of the fields of `Rows` that are vectors
    blocks: Blocks
    steps: int  # of each program, over its share of the vocabulary
    ragged: bool  # whether a block can hold columns that are no tokens
    options: Options


def _call(arrays: tuple[Array, ...], grid: tuple[int, int], plan: _Plan, interpret: bool) -> tuple[Array, ...]:
    """Runs the kernel over (blocks of rows, shares of the vocabulary) -> [shares, N] of each sum."""
    arrays = compat.vary_together(arrays)
    _, hidden, head, *numbers = arrays
    dtype = numbers[plan.numbers.index("inv_temperature")].dtype
    (tokens, size), columns = hidden.shape, head.shape[plan.options.columns]
    read = head.size * head.dtype.itemsize * grid[0] + hidden.size * hidden.dtype.itemsize
    return tuple(
        pl.pallas_call(
            functools.partial(_kernel, plan=plan),
            grid=grid,
            out_shape=[
                compat.shaped_like(hidden, (grid[1], tokens), jnp.int32 if name == "argmax" else dtype)
                for name in plan.sums
            ],
            compiler_params=triton.CompilerParams(num_warps=WARPS, num_stages=STAGES),
            cost_estimate=pl.CostEstimate(
                flops=2 * tokens * size * columns, transcendentals=tokens * columns, bytes_accessed=read
            ),
            interpret=interpret,
            name="token_score",
        )(*arrays)
    )


def _kernel(limit, hidden, head, *refs, plan: _Plan) -> None:
    count, (height, width, _) = len(plan.numbers), plan.blocks
    first_row, share = pl.program_id(0) * height, pl.program_id(1)
    at = pl.ds(first_row, height)
    inside = first_row + jnp.arange(height, dtype=jnp.int32) < hidden.shape[0]
    loaded = {
        name: triton.load(ref.at[at], mask=inside, other=0)
        for name, ref in zip(plan.numbers, refs[:count], strict=True)
    }
    rows = Rows(**{**dict.fromkeys(Rows._fields), **loaded})
    most = limit[0] if plan.ragged else None

    def step(number: Any, total: Sums) -> Sums:
        start = (share * plan.steps + number) * width
        z = _logits(hidden, head, rows.inv_temperature, first_row, start, plan)
        column = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
        is_target, kept = column == (rows.targets - start)[:, None], None
        if rows.cut is not None:
            kept = (z >= rows.cut[:, None]) | is_target
        if most is not None:
            real = column < most - start
            is_target, kept = is_target & real, real if kept is None else kept & real
        return merge(total, block_sums(Logits(z, None, is_target, kept), rows, start, plan.options))

    total = jax.lax.fori_loop(0, plan.steps, step, nothing(rows, plan.options))
    for name, ref in zip(plan.sums, refs[count:], strict=True):
        triton.store(ref.at[share, at], getattr(total, name), mask=inside)


def _logits(hidden, head, inv_temperature: Array, first_row: Any, start: Any, plan: _Plan) -> Float[Array, "n C"]:
    """Returns one block of logits; those past the end of the head are 0."""
    (height, width, depth), size, layout = plan.blocks, hidden.shape[1], plan.options.layout
    at, columns = pl.ds(first_row, height), pl.ds(start, width)
    row = first_row + jax.lax.broadcasted_iota(jnp.int32, (height, depth), 0)
    across = jax.lax.broadcasted_iota(jnp.int32, (height, depth), 1)
    shape = (depth, width) if layout == "dv" else (width, depth)
    down, beside = (jax.lax.broadcasted_iota(jnp.int32, shape, layout.index(axis)) for axis in "dv")
    in_head = start + beside < head.shape[plan.options.columns]

    def part(number: Any, total: Array) -> Array:
        first = number * depth
        here = pl.ds(first, depth)
        there = (here, columns) if layout == "dv" else (columns, here)
        x = triton.load(hidden.at[at, here], mask=(row < hidden.shape[0]) & (first + across < size), other=0)
        w = triton.load(head.at[there], mask=in_head & (first + down < size), other=0)
        wide = wider(x, w)
        # float32 in full, not rounded to the 10 bits of TF32.
        exact = {"allow_tf32": False} if wide == jnp.float32 else {}
        product = triton.dot(x.astype(wide), w.astype(wide), trans_b=layout == "vd", **exact)
        return total + product.astype(total.dtype)

    zero = jnp.zeros((height, width), inv_temperature.dtype)
    raw, _ = capped(jax.lax.fori_loop(0, pl.cdiv(size, depth), part, zero), plan.options)
    return unfused(raw * inv_temperature[:, None])
