"""Token scoring for TPU: a kernel that streams over the head, and never writes a logit to memory.

The grid is (blocks of rows, blocks of the vocabulary, parts of D), the last innermost. A step multiplies one block
of hidden states by one of the head, and adds the logits to running sums that are kept for each of the 128 lanes
apart: a maximum per lane needs no exchange between lanes until the last block of the vocabulary. The last block may
be ragged: 151936 columns are 128 times a prime. The backward pass is that of `chunked`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.kernels import device
from jaxrl_tok.kernels.lazy import Lazy
from jaxrl_tok.kernels.token_score import block_sizes, tiling
from jaxrl_tok.kernels.token_score.common import (
    ADDITIVE,
    NEG,
    Layout,
    Options,
    Rows,
    Sums,
    nothing,
    scaled,
    unfused,
    wider,
)
from jaxrl_tok.kernels.token_score.tiling import Blocks, up

pl: Any = Lazy("jax.experimental.pallas")
pltpu: Any = Lazy("jax.experimental.pallas.tpu")

LANES = 128
# Results leave the kernel as floats, argmax too: whole numbers are exact below this.
MOST_COLUMNS = 2**24


def obstacle(rows: Rows, head: Array, options: Options) -> str | None:
    """Returns why it cannot run on these arrays, here; None if it can."""
    return why_not(device.target().platform, (rows.hidden, head), head.shape[options.columns])


def why_not(platform: str, arrays: Sequence[Array], columns: int) -> str | None:
    """Returns why a TPU kernel cannot run, None if it can."""
    if platform != "tpu":
        return f"it runs on TPU, and this is {platform}"
    for x in arrays:
        if x.dtype not in (jnp.bfloat16, jnp.float32):
            return f"it takes bfloat16 or float32, not {x.dtype}"
    if columns >= MOST_COLUMNS:
        return f"it counts columns up to {MOST_COLUMNS}, and the head has {columns}"
    return None


def forward(
    rows: Rows,
    head: Array,
    options: Options,
    limit: Array | None = None,
    *,
    blocks: Blocks | None = None,
    interpret: Any = False,
) -> Sums:
    """Returns the sums over the kept tokens among the first `limit` columns.

    Args:
        rows: the tokens.
        head: the columns.
        options: the static half of the problem; its `block` overrides the columns of the table's block.
        limit: i32[], the columns that are tokens; all by default.
        blocks: the sizes of a step; from the table by default.
        interpret: runs on any platform, slowly: True or `pltpu.InterpretParams`.
    """
    tokens, columns = len(rows.targets), head.shape[options.columns]
    if tokens == 0:
        return nothing(rows, options)
    blocks = blocks or blocks_of(rows, head, options)
    whole = jnp.full((1, 1), columns, jnp.int32) if limit is None else jnp.reshape(limit, (1, 1)).astype(jnp.int32)
    # A column past the end matches no target, whatever the memory there holds.
    targets = jnp.where((rows.targets >= 0) & (rows.targets < whole[0]), rows.targets, -1)
    numbers = {"inv_temperature": rows.inv_temperature, "cut": rows.cut, "pivot": rows.pivot}
    numbers = {name: x for name, x in numbers.items() if x is not None}
    head, layout = unpadded(head, options.layout)
    plan = _Plan(
        sums=("max_logit", "sum_exp", "sum_exp_shifted", "target_logit", *options.extras),
        numbers=tuple(numbers),
        blocks=blocks,
        steps=pl.cdiv(columns, blocks.columns),
        parts=rows.hidden.shape[1] // blocks.depth,
        ragged=limit is not None or columns % blocks.columns != 0,
        layout=layout,
        soft_cap=options.soft_cap,
    )
    arrays = (whole, rows.hidden, head, jnp.stack(list(numbers.values()), axis=1), targets[:, None])
    found = _call(*compat.vary_together(arrays), plan, interpret)
    sums = {name: found[:, place] for place, name in enumerate(plan.sums)}
    if "argmax" in sums:
        sums["argmax"] = sums["argmax"].astype(jnp.int32)
    return Sums(**sums)


def unpadded(head: Array, layout: Layout) -> tuple[Array, Layout]:
    """Returns a head and its layout so that its last axis is whole lanes, where that can be.

    XLA lays out an argument so that it needs no padding: [D, V] with V not a multiple of 128 lies as [V, D], and a
    kernel that wants it otherwise gets a copy of the whole head. Turned over, it is read where it lies.
    """
    if layout == "dv" and head.shape[1] % LANES and head.shape[0] % LANES == 0:
        return head.T, "vd"
    return head, layout


def blocks_of(rows: Rows, head: Array, options: Options) -> Blocks:
    """Returns the sizes of a step: the table's, cut down to the problem and to what the chip's memory holds."""
    kind, (tokens, size), columns = device.target().kind, rows.hidden.shape, head.shape[options.columns]
    wanted = tiling.listed(block_sizes.PALLAS_TPU, kind, size, columns)
    width = min(options.block or wanted.columns, columns, block_sizes.PALLAS_TPU_COLUMNS)
    blocks = Blocks(tiling.even(tokens, wanted.rows), up(width, LANES), wanted.depth)
    itemsize = wider(rows.hidden, head).itemsize

    def fits(blocks: Blocks) -> bool:
        return memory(blocks, itemsize, 4 + len(options.extras)) <= tiling.budget(kind)

    return tiling.fitted(blocks, size, fits)


def memory(blocks: Blocks, width: int, sums: int) -> int:
    """Returns the bytes of fast memory that a step holds."""
    inputs = (blocks.rows + blocks.columns) * blocks.depth
    # While one input is used the next one is loaded; float32 is taken apart into bfloat16 besides.
    inputs *= 2 * width if width == 2 else 2 * width + 12
    logits = 4 * blocks.rows * blocks.columns
    # What the compiler puts there besides was found by compiling: the product, and registers that it spills.
    return inputs + 4 * logits + 4 * LANES * blocks.rows * (sums + 6)


class _Plan(NamedTuple):
    """The static half of a call."""

    sums: tuple[str, ...]  # names of the fields of `Sums`
    numbers: tuple[str, ...]  # names of the columns of the numbers of each row
    blocks: Blocks
    steps: int  # blocks of the vocabulary
    parts: int  # of D
    ragged: bool  # whether a block can hold columns that are no tokens
    layout: Layout
    soft_cap: float | None


def _call(
    limit: Int[Array, "1 1"],
    hidden: Float[Array, "N D"],
    head: Array,
    numbers: Float[Array, "N n"],
    targets: Int[Array, "N 1"],
    plan: _Plan,
    interpret: Any,
) -> Float[Array, "N S"]:
    (tokens, size), (rows, columns, depth) = hidden.shape, plan.blocks
    vocabulary, tiles = head.shape[plan.layout.index("v")], pl.cdiv(tokens, rows)
    head_block = {"dv": (depth, columns), "vd": (columns, depth)}[plan.layout]
    head_place = {"dv": lambda i, j, k: (k, j), "vd": lambda i, j, k: (j, k)}[plan.layout]
    state = [pltpu.VMEM((rows, LANES), jnp.int32 if name == "argmax" else numbers.dtype) for name in plan.sums]
    again = plan.steps if plan.parts > 1 else 1
    streamed = head.size * head.dtype.itemsize * tiles + hidden.size * hidden.dtype.itemsize * again
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan),
        grid=(tiles, plan.steps, plan.parts),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            pl.BlockSpec((rows, depth), lambda i, j, k: (i, k)),
            pl.BlockSpec(head_block, head_place),
            pl.BlockSpec((rows, numbers.shape[1]), lambda i, j, k: (i, 0)),
            pl.BlockSpec((rows, 1), lambda i, j, k: (i, 0)),
        ],
        out_specs=pl.BlockSpec((rows, len(plan.sums)), lambda i, j, k: (i, 0)),
        out_shape=compat.shaped_like(hidden, (tokens, len(plan.sums)), numbers.dtype),
        scratch_shapes=[pltpu.VMEM((rows, columns), numbers.dtype), *state],
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary", "arbitrary"),
            vmem_limit_bytes=tiling.vmem(device.target().kind),
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * tokens * size * vocabulary, transcendentals=tokens * vocabulary, bytes_accessed=streamed
        ),
        interpret=interpret,
        name="token_score",
    )(limit, hidden, head, numbers, targets)


def _kernel(limit, hidden, head, numbers, targets, out, raw, *refs, plan: _Plan) -> None:
    step, part = pl.program_id(1), pl.program_id(2)
    state = dict(zip(plan.sums, refs, strict=True))

    @pl.when((step == 0) & (part == 0))
    def _() -> None:
        for name, ref in state.items():
            ref[...] = jnp.full_like(ref, NEG if name in ("max_logit", "second_logit") else 0)

    product = dot(hidden[...], head[...], plan.layout, raw.dtype)
    if plan.parts == 1:
        raw[...] = product
    else:

        @pl.when(part == 0)
        def _() -> None:
            raw[...] = product

        @pl.when(part > 0)
        def _() -> None:
            raw[...] += product

    start, last = step * plan.blocks.columns, part == plan.parts - 1
    add = functools.partial(_add_block, raw, numbers, targets, state, start, plan=plan)
    for_tokens(last, start, plan.blocks.columns, limit[0, 0], plan.ragged, add)

    @pl.when(last & (step == plan.steps - 1))
    def _() -> None:
        total = _over_lanes(Sums(**{name: ref[...] for name, ref in state.items()}))
        place, found = jax.lax.broadcasted_iota(jnp.int32, out.shape, 1), jnp.zeros(out.shape, out.dtype)
        for number, name in enumerate(plan.sums):
            found = jnp.where(place == number, getattr(total, name).astype(out.dtype), found)
        out[...] = found


def dot(hidden: Array, head: Array, layout: str, dtype: Any) -> Array:
    """Multiplies a block of hidden states by one of a head; float32 in full, not in passes of bfloat16."""
    wide = wider(hidden, head)
    precision = None if wide == jnp.bfloat16 else jax.lax.Precision.HIGHEST
    dimensions = (((1,), (layout.index("d"),)), ((), ()))
    hidden, head = hidden.astype(wide), head.astype(wide)
    return jax.lax.dot_general(hidden, head, dimensions, precision=precision, preferred_element_type=dtype)


def soft_capped(raw: Array, soft_cap: float | None) -> Array:
    """Returns soft-capped logits."""
    return raw if soft_cap is None else soft_cap * jnp.tanh(raw / soft_cap)


def for_tokens(when: Any, start: Any, size: int, limit: Any, ragged: bool, add: Callable) -> None:
    """Calls add(columns) with the columns of a block that are tokens, None where all are, not at all where none is."""
    if not ragged:
        pl.when(when)(lambda: add(None))
        return
    inside = limit - start
    pl.when(when & (inside >= size))(lambda: add(None))
    pl.when(when & (inside > 0) & (inside < size))(lambda: add(inside))


def _add_block(raw, numbers, targets, state: dict, start: Any, inside: Any, *, plan: _Plan) -> None:
    """Adds a block of logits to the running sums, as many rows at a time as registers hold the sums of."""
    size = tiling.at_once(plan.blocks.rows)

    def some_rows(index: Any, _: None) -> None:
        at = pl.ds(pl.multiple_of(index * size, size), size)
        row = {name: numbers[at, place : place + 1] for place, name in enumerate(plan.numbers)}
        target = targets[at, :] - start
        chunks = [
            _chunk(raw[at, lane : lane + LANES], row, target - lane, inside, lane, plan)
            for lane in range(0, plan.blocks.columns, LANES)
        ]
        total = _merged(Sums(**{name: ref[at, :] for name, ref in state.items()}), chunks, row, start)
        for name, ref in state.items():
            ref[at, :] = getattr(total, name)

    jax.lax.fori_loop(0, plan.blocks.rows // size, some_rows, None)


class _Chunk(NamedTuple):
    """Logits of one column for each lane."""

    z: Float[Array, "n lanes"]  # NEG where not kept
    kept: Bool[Array, "n lanes"] | None  # None if all are
    is_target: Bool[Array, "n lanes"]
    first: int  # column of the first lane, in its block


def _chunk(raw: Array, row: dict[str, Array], target: Array, inside: Any, first: int, plan: _Plan) -> _Chunk:
    z = unfused(soft_capped(raw, plan.soft_cap) * row["inv_temperature"])
    lane = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1)
    is_target = lane == target
    kept = (z >= row["cut"]) | is_target if "cut" in row else None
    if inside is not None:
        real = lane < inside - first
        kept = real if kept is None else kept & real
    return _Chunk(z if kept is None else jnp.where(kept, z, NEG), kept, is_target, first)


def _merged(state: Sums, chunks: Sequence[_Chunk], row: dict[str, Array], start: Any) -> Sums:
    """Returns the sums of each lane over what they were over, and the chunks."""
    top, argmax, second = state.max_logit, state.argmax, state.second_logit
    for chunk in chunks:
        if argmax is not None:
            column = start + chunk.first + jax.lax.broadcasted_iota(jnp.int32, chunk.z.shape, 1)
            argmax = jnp.where(chunk.z > top, column, argmax)
        if second is not None:
            second = jnp.maximum(second, jnp.minimum(top, chunk.z))
        top = jnp.maximum(top, chunk.z)
    # One scaling for the whole block, however many chunks: an exponential more per lane, not per logit.
    total = scaled(state, top)._replace(argmax=argmax, second_logit=second)
    for chunk in chunks:
        added = _terms(chunk, top, total, row)
        total = total._replace(**{name: getattr(total, name) + x for name, x in added.items()})
    return total


def _terms(chunk: _Chunk, top: Array, total: Sums, row: dict[str, Array]) -> dict[str, Array]:
    """Returns what each logit adds to those sums that are kept."""
    shifted = chunk.z - top
    exp = jnp.exp(shifted)
    if chunk.kept is not None:  # in a lane without any kept token, top is NEG too
        exp = jnp.where(chunk.kept, exp, 0)

    def above(x: Array) -> Array:
        return jnp.where((chunk.z > row["pivot"]) & ~chunk.is_target, x, 0)

    ways: dict[str, Callable[[], Array]] = {
        "sum_exp": lambda: exp,
        "sum_exp_shifted": lambda: exp * shifted,
        "target_logit": lambda: jnp.where(chunk.is_target, chunk.z, 0),
        "sum_logits": lambda: chunk.z if chunk.kept is None else jnp.where(chunk.kept, chunk.z, 0),
        "sum_exp2": lambda: exp * exp,
        "sum_exp2_shifted": lambda: exp * exp * shifted,
        "sum_exp_shifted2": lambda: exp * shifted * shifted,
        "count_above": lambda: above(jnp.ones_like(exp)),
        "sum_exp_above": lambda: above(exp),
    }
    return {name: term() for name, term in ways.items() if getattr(total, name) is not None}


def _over_lanes(state: Sums) -> Sums:
    """Merges the lanes: [n, lanes] -> [n, 1]."""

    def most(x: Array) -> Array:
        return jnp.max(x, axis=1, keepdims=True)

    top = most(state.max_logit)
    relative = scaled(state, jnp.broadcast_to(top, state.max_logit.shape))
    names = [name for name in ADDITIVE if getattr(state, name) is not None]
    merged = {name: jnp.sum(getattr(relative, name), axis=1, keepdims=True) for name in names}
    largest = state.max_logit == top
    if state.argmax is not None:
        merged["argmax"] = jnp.min(jnp.where(largest, state.argmax, MOST_COLUMNS), axis=1, keepdims=True)
    if state.second_logit is not None:
        lane = jax.lax.broadcasted_iota(jnp.int32, largest.shape, 1)
        winner = lane == jnp.min(jnp.where(largest, lane, LANES), axis=1, keepdims=True)
        merged["second_logit"] = most(jnp.where(winner, state.second_logit, state.max_logit))
    return Sums(max_logit=top, **merged)
