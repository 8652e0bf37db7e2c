"""Token scoring with XLA alone: streams over blocks of the vocabulary, on any platform.

Holds [N, block] logits at most, and computes them again backwards: one matmul forward, three backward. Each
slice of the head is read once in each direction, and each slice of its gradient written once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.kernels.token_score import block_sizes
from jaxrl_tok.kernels.token_score.common import NEG, Coefficients, Options, Rows, Sums, unfused, wider

Tree = TypeVar("Tree")


def forward(rows: Rows, head: Array, options: Options) -> Sums:
    """Returns the sums over the kept tokens."""
    block, tiles = _blocking(rows, head, options)

    def sums_of(tile: Rows) -> Sums:
        def step(total: Sums, start: Array | int, size: int) -> Sums:
            return merge(total, _sums(_logits(tile, _columns(head, start, size, options), start, options)))

        zero = jnp.zeros_like(tile.inv_temperature)
        return _sweep(step, Sums(zero + NEG, zero, zero, zero), head.shape[options.vocab_axis], block)

    if tiles == 1:
        return sums_of(rows)
    return _join(jax.lax.map(sums_of, _split(rows, tiles)), len(rows.targets))


def backward(
    rows: Rows, head: Array, coefficients: Coefficients, options: Options
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of hidden and head."""
    block, tiles = _blocking(rows, head, options)
    work = (rows, coefficients) if tiles == 1 else _split((rows, coefficients), tiles)
    gradients = _gradients if tiles == 1 else _tiled_gradients

    def step(total: tuple[Array, Array | None], start: Array | int, size: int) -> tuple[Array, Array | None]:
        d_hidden, d_head = total
        d_rows, d_columns = gradients(work, _columns(head, start, size, options), start, options)
        if d_head is not None and d_columns is not None:
            d_columns = d_columns.astype(head.dtype)
            d_head = jax.lax.dynamic_update_slice_in_dim(d_head, d_columns, start, options.vocab_axis)
        return d_hidden + d_rows, d_head

    d_hidden = jnp.zeros_like(work[0].hidden, dtype=rows.inv_temperature.dtype)
    d_head = jnp.zeros_like(head) if options.head_grad else None
    d_hidden, d_head = _sweep(step, (d_hidden, d_head), head.shape[options.vocab_axis], block)
    if tiles > 1:
        d_hidden = _join(d_hidden, len(rows.targets))
    return d_hidden.astype(rows.hidden.dtype), d_head


def merge(a: Sums, b: Sums) -> Sums:
    """Returns the sums over the union of two disjoint parts of the vocabulary."""
    max_logit = jnp.maximum(a.max_logit, b.max_logit)

    def rescaled(part: Sums) -> tuple[Array, Array]:
        shift = part.max_logit - max_logit
        scale = jnp.exp(shift)
        return scale * part.sum_exp, scale * (part.sum_exp_shifted + shift * part.sum_exp)

    (exp_a, shifted_a), (exp_b, shifted_b) = rescaled(a), rescaled(b)
    return Sums(max_logit, exp_a + exp_b, shifted_a + shifted_b, a.target_logit + b.target_logit)


class _Logits(NamedTuple):
    """One block of logits and what is known of each."""

    z: Float[Array, "N C"]
    slope: Float[Array, "N C"] | None  # of the soft cap, None without
    is_target: Bool[Array, "N C"]
    kept: Bool[Array, "N C"] | None  # None if all are


def _logits(rows: Rows, columns: Array, start: Array | int, options: Options) -> _Logits:
    dtype = rows.inv_temperature.dtype
    z, slope = _einsum(f"nd,{options.layout}->nv", rows.hidden, columns, dtype), None
    if options.soft_cap is not None:
        u = jnp.tanh(z / options.soft_cap)
        z, slope = options.soft_cap * u, 1 - u * u
    z = unfused(z * rows.inv_temperature[:, None])
    is_target = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) == (rows.targets - start)[:, None]
    kept = None if rows.cut is None else (z >= rows.cut[:, None]) | is_target
    return _Logits(z, slope, is_target, kept)


def _sums(block: _Logits) -> Sums:
    z = block.z if block.kept is None else jnp.where(block.kept, block.z, NEG)
    max_logit = jnp.max(z, axis=1)
    shifted = z - max_logit[:, None]
    exp = jnp.exp(shifted)
    target_logit = jnp.sum(jnp.where(block.is_target, z, 0), axis=1)
    return Sums(max_logit, jnp.sum(exp, axis=1), jnp.sum(exp * shifted, axis=1), target_logit)


def _gradients(
    work: tuple[Rows, Coefficients], columns: Array, start: Array | int, options: Options
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns one block's part of the gradient of hidden, and the gradient of its columns."""
    rows, coefficients = work
    block = _logits(rows, columns, start, options)
    logp = (block.z - coefficients.max_logit[:, None]) - coefficients.log_sum[:, None]
    g = jnp.exp(logp) * (coefficients.constant[:, None] + coefficients.slope[:, None] * logp)
    if block.kept is not None:
        g = jnp.where(block.kept, g, 0)
    g = (g + jnp.where(block.is_target, coefficients.target[:, None], 0)) * rows.inv_temperature[:, None]
    if block.slope is not None:
        g = g * block.slope
    # In the inputs' type, so that matmul units of half precision do all three products.
    dtype, g = g.dtype, g.astype(wider(rows.hidden, columns))
    d_hidden = _einsum(f"nv,{options.layout}->nd", g, columns, dtype)
    return d_hidden, _einsum(f"nd,nv->{options.layout}", rows.hidden, g, dtype) if options.head_grad else None


def _tiled_gradients(
    tiles: tuple[Rows, Coefficients], columns: Array, start: Array | int, options: Options
) -> tuple[Float[Array, "tiles n D"], Array | None]:
    """Returns what `_gradients` does, one tile of rows at a time."""

    def step(total: Array | None, tile: tuple[Rows, Coefficients]) -> tuple[Array | None, Array]:
        d_hidden, d_columns = _gradients(tile, columns, start, options)
        return jax.tree.map(jnp.add, total, d_columns), d_hidden

    dtype = tiles[0].inv_temperature.dtype
    zero = jnp.zeros_like(columns, dtype=dtype) if options.head_grad else None
    d_columns, d_hidden = jax.lax.scan(step, zero, tiles)
    return d_hidden, d_columns


def _einsum(equation: str, a: Array, b: Array, dtype: Any) -> Array:
    """Multiplies in the wider of the two types and accumulates in `dtype`."""
    wide = wider(a, b)
    return jnp.einsum(equation, a.astype(wide), b.astype(wide), preferred_element_type=dtype)


def _sweep(step: Callable[[Tree, Any, int], Tree], total: Tree, vocabulary: int, block: int) -> Tree:
    """Folds step(total, start, size) over the blocks of the vocabulary.

    What does not fill a block is a smaller step at the end: no column is visited twice, none is padding, and
    every start is a multiple of the block.
    """
    full, rest = divmod(vocabulary, block)
    if full == 1:
        total = step(total, 0, block)
    elif full > 1:
        starts = block * jnp.arange(full, dtype=jnp.int32)
        total, _ = jax.lax.scan(lambda total, start: (step(total, start, block), None), total, starts)
    return step(total, full * block, rest) if rest else total


def _blocking(rows: Rows, head: Array, options: Options) -> tuple[int, int]:
    """Returns the columns of a block, and the number of tiles that the rows are split into."""
    block = min(options.block or block_sizes.CHUNKED_BLOCK, head.shape[options.vocab_axis])
    return block, max(1, -(-len(rows.targets) * block // block_sizes.CHUNKED_LOGITS))


def _columns(head: Array, start: Array | int, size: int, options: Options) -> Array:
    return jax.lax.dynamic_slice_in_dim(head, start, size, options.vocab_axis)


def _split(tree: Tree, tiles: int) -> Tree:
    """Deals rows out to tiles, padded with zeros: [N, ...] -> [tiles, n, ...].

    Tile i gets rows i, i + tiles, ...: where rows are sharded, every device has its share of every tile.
    """

    def split(x: Array) -> Array:
        x = jnp.pad(x, [(0, -len(x) % tiles)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, tiles, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(split, tree)


def _join(tree: Tree, rows: int) -> Tree:
    """Undoes `_split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:rows], tree)
