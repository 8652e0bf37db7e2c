"""Divergences for TPU: a kernel that streams over both heads, and never writes a logit to memory.

The grid is (blocks of rows, blocks of the vocabulary). A step multiplies a block of either model's hidden states by
one of its head, and adds the terms of each pair of log-probs to sums that are kept for each of the 128 lanes apart.
The first phase is the kernel of token scoring, once for each model; the backward pass is that of `chunked`.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.kernels import device
from jaxrl_tok.kernels.divergence.common import Pair, PairOptions, Side, Terms, terms
from jaxrl_tok.kernels.lazy import Lazy
from jaxrl_tok.kernels.token_score import block_sizes, tiling
from jaxrl_tok.kernels.token_score.common import Options, unfused, wider
from jaxrl_tok.kernels.token_score.pallas_tpu import (
    LANES,
    dot,
    for_tokens,
    memory,
    soft_capped,
    unpadded,
    why_not,
)
from jaxrl_tok.kernels.token_score.tiling import Blocks, up

pl: Any = Lazy("jax.experimental.pallas")
pltpu: Any = Lazy("jax.experimental.pallas.tpu")

# The numbers of each row, in the order of their columns: those of the policy, then those of the reference.
NUMBERS = ("inv_temperature", "max_logit", "log_sum")


def obstacle(pair: Pair, head: Array, ref_head: Array, options: PairOptions) -> str | None:
    """Returns why it cannot run on these arrays, here; None if it can."""
    arrays = pair.policy.hidden, pair.ref.hidden, head, ref_head
    return why_not(device.target().platform, arrays, head.shape[options.policy.columns])


def forward(
    pair: Pair,
    head: Array,
    ref_head: Array,
    options: PairOptions,
    limit: Array | None = None,
    *,
    blocks: Blocks | None = None,
    interpret: Any = False,
) -> Terms:
    """Returns the sums over the first `limit` columns.

    Args:
        pair: the tokens.
        head: the policy's columns.
        ref_head: those of the reference.
        options: the static half of the problem; the policy's `block` overrides the columns of the table's block.
        limit: i32[], the columns that are tokens; all by default.
        blocks: the rows and columns of a step; from the table by default.
        interpret: runs on any platform, slowly: True or `pltpu.InterpretParams`.
    """
    columns = head.shape[options.policy.columns]
    if len(pair.policy.log_sum) == 0:
        return Terms(**dict.fromkeys(options.terms, jnp.zeros_like(pair.policy.log_sum)))
    blocks = blocks or blocks_of(pair, head, options)
    head, layout = unpadded(head, options.policy.layout)
    ref_head, ref_layout = unpadded(ref_head, options.ref.layout)
    policy, ref = options.policy._replace(layout=layout), options.ref._replace(layout=ref_layout)
    options = options._replace(policy=policy, ref=ref)
    plan = _Plan(blocks, pl.cdiv(columns, blocks.columns), limit is not None or columns % blocks.columns != 0, options)
    whole = jnp.full((1, 1), columns, jnp.int32) if limit is None else jnp.reshape(limit, (1, 1)).astype(jnp.int32)
    numbers = jnp.stack([getattr(side, name) for side in pair for name in NUMBERS], axis=1)
    arrays = (whole, pair.policy.hidden, head, pair.ref.hidden, ref_head, numbers)
    found = _call(*compat.vary_together(arrays), plan, interpret)
    return Terms(**{name: found[:, place] for place, name in enumerate(options.terms)})


def blocks_of(pair: Pair, head: Array, options: PairOptions) -> Blocks:
    """Returns the sizes of a step: the table's, cut down to the problem and to what the chip's memory holds."""
    columns, kind = head.shape[options.policy.columns], device.target().kind
    tokens, size = pair.policy.hidden.shape
    rows, width = block_sizes.PALLAS_TPU_PAIR
    width = min(options.policy.block or width, columns, block_sizes.PALLAS_TPU_COLUMNS)
    both = size + pair.ref.hidden.shape[1]
    itemsize = wider(pair.policy.hidden, pair.ref.hidden, head).itemsize

    def fits(blocks: Blocks) -> bool:
        return memory(blocks, itemsize, len(options.terms)) <= tiling.budget(kind)

    return tiling.fitted(Blocks(tiling.even(tokens, rows), up(width, LANES), both), both, fits, whole=True)


class _Plan(NamedTuple):
    """The static half of a call."""

    blocks: Blocks
    steps: int  # blocks of the vocabulary
    ragged: bool  # whether a block can hold columns that are no tokens
    options: PairOptions


def _call(
    limit: Int[Array, "1 1"],
    hidden: Float[Array, "N D"],
    head: Array,
    ref_hidden: Float[Array, "N R"],
    ref_head: Array,
    numbers: Float[Array, "N n"],
    plan: _Plan,
    interpret: Any,
) -> Float[Array, "N S"]:
    (tokens, count), (rows, columns, _), options = numbers.shape, plan.blocks, plan.options
    tiles, results = pl.cdiv(tokens, rows), len(options.terms)
    vocabulary, widths = head.shape[options.policy.columns], hidden.shape[1] + ref_hidden.shape[1]
    read = sum(x.size * x.dtype.itemsize for x in (head, ref_head)) * tiles
    read += sum(x.size * x.dtype.itemsize for x in (hidden, ref_hidden))
    row_blocks = [pl.BlockSpec((rows, size), lambda i, j: (i, 0)) for size in (hidden.shape[1], ref_hidden.shape[1])]
    return pl.pallas_call(
        functools.partial(_kernel, plan=plan),
        grid=(tiles, plan.steps),
        in_specs=[
            pl.BlockSpec(memory_space=pltpu.SMEM),
            row_blocks[0],
            _head_block(hidden.shape[1], columns, options.policy),
            row_blocks[1],
            _head_block(ref_hidden.shape[1], columns, options.ref),
            pl.BlockSpec((rows, count), lambda i, j: (i, 0)),
        ],
        out_specs=pl.BlockSpec((rows, results), lambda i, j: (i, 0)),
        out_shape=compat.shaped_like(hidden, (tokens, results), numbers.dtype),
        scratch_shapes=[pltpu.VMEM((rows, columns), numbers.dtype)] * 2
        + [pltpu.VMEM((rows, LANES), numbers.dtype)] * results,
        compiler_params=pltpu.CompilerParams(
            dimension_semantics=("parallel", "arbitrary"), vmem_limit_bytes=tiling.vmem(device.target().kind)
        ),
        cost_estimate=pl.CostEstimate(
            flops=2 * tokens * widths * vocabulary,
            transcendentals=(2 + results) * tokens * vocabulary,
            bytes_accessed=read,
        ),
        interpret=interpret,
        name="divergence",
    )(limit, hidden, head, ref_hidden, ref_head, numbers)


def _head_block(size: int, columns: int, options: Options) -> Any:
    if options.layout == "dv":
        return pl.BlockSpec((size, columns), lambda i, j: (0, j))
    return pl.BlockSpec((columns, size), lambda i, j: (j, 0))


def _kernel(limit, hidden, head, ref_hidden, ref_head, numbers, out, raw, ref_raw, *totals, plan: _Plan) -> None:
    step, options = pl.program_id(1), plan.options

    @pl.when(step == 0)
    def _() -> None:
        for total in totals:
            total[...] = jnp.zeros_like(total)

    raw[...] = dot(hidden[...], head[...], options.policy.layout, raw.dtype)
    ref_raw[...] = dot(ref_hidden[...], ref_head[...], options.ref.layout, raw.dtype)
    start = step * plan.blocks.columns
    add = functools.partial(_add_block, raw, ref_raw, numbers, totals, plan=plan)
    for_tokens(step >= 0, start, plan.blocks.columns, limit[0, 0], plan.ragged, add)

    @pl.when(step == plan.steps - 1)
    def _() -> None:
        place, found = jax.lax.broadcasted_iota(jnp.int32, out.shape, 1), jnp.zeros(out.shape, out.dtype)
        for number, total in enumerate(totals):
            found = jnp.where(place == number, jnp.sum(total[...], axis=1, keepdims=True), found)
        out[...] = found


def _add_block(raw, ref_raw, numbers, totals, inside: Any, *, plan: _Plan) -> None:
    """Adds the terms of a block of pairs of logits, as many rows at a time as registers hold."""
    size, options = tiling.at_once(plan.blocks.rows), plan.options

    def some_rows(index: Any, _: None) -> None:
        at = pl.ds(pl.multiple_of(index * size, size), size)
        row = [numbers[at, place : place + 1] for place in range(2 * len(NUMBERS))]
        policy, ref = Side(None, *row[: len(NUMBERS)]), Side(None, *row[len(NUMBERS) :])
        sums = [total[at, :] for total in totals]
        for first in range(0, plan.blocks.columns, LANES):
            logp = _log_probs(raw[at, first : first + LANES], policy, options.policy)
            logr = _log_probs(ref_raw[at, first : first + LANES], ref, options.ref)
            found = terms(logp, logr, options.terms, options.beta, expm1)
            for place, name in enumerate(options.terms):
                term = found[name]
                if inside is not None:
                    lane = jax.lax.broadcasted_iota(jnp.int32, term.shape, 1)
                    term = jnp.where(lane < inside - first, term, 0)
                sums[place] = sums[place] + term
        for total, x in zip(totals, sums, strict=True):
            total[at, :] = x

    jax.lax.fori_loop(0, plan.blocks.rows // size, some_rows, None)


def _log_probs(raw: Array, side: Side, options: Options) -> Array:
    z = unfused(soft_capped(raw, options.soft_cap) * side.inv_temperature)
    return (z - side.max_logit) - side.log_sum


def expm1(x: Array) -> Array:
    """Returns e^x - 1, which Mosaic has not: near 0, where the two cancel, by its series."""
    small = jnp.abs(x) < 0.35
    near, count = jnp.where(small, x, 0), 15 if x.dtype == jnp.float64 else 8
    series = jnp.ones_like(x)
    for order in range(count, 1, -1):
        series = 1 + near / order * series
    return jnp.where(small, near * series, jnp.exp(x) - 1)
