"""Token scoring with XLA alone: streams over blocks of the vocabulary, on any platform.

Holds [N, block] logits at most, and computes them again backwards: one matmul forward, three backward. Each
slice of the head is read once in each direction, and each slice of its gradient written once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.kernels.token_score import block_sizes
from jaxrl_tok.kernels.token_score.common import (
    NEG,
    Coefficients,
    Options,
    Rows,
    Sums,
    Tree,
    columns_of,
    merge,
    nothing,
    sweep,
    unfused,
    wider,
)


def forward(rows: Rows, head: Array, options: Options, limit: Array | None = None) -> Sums:
    """Returns the sums over the kept tokens among the first `limit` columns."""
    block, tiles = blocking(len(rows.targets), head, options)

    def sums_of(tile: Rows) -> Sums:
        def step(total: Sums, start: Array | int, size: int) -> Sums:
            logits = _logits(tile, columns_of(head, start, size, options), start, options, limit)
            return merge(total, block_sums(logits, tile, start, options))

        return sweep(step, nothing(tile, options), head.shape[options.columns], block)

    if tiles == 1:
        return sums_of(rows)
    return join(jax.lax.map(sums_of, split(rows, tiles)), len(rows.targets))


def backward(
    rows: Rows, head: Array, coefficients: Coefficients, options: Options, limit: Array | None = None
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of hidden, in the accumulation type, and of head."""
    block, tiles = blocking(len(rows.targets), head, options)
    work = (rows, coefficients) if tiles == 1 else split((rows, coefficients), tiles)
    gradients = _gradients if tiles == 1 else _tiled_gradients

    def step(total: tuple[Array, Array | None], start: Array | int, size: int) -> tuple[Array, Array | None]:
        d_hidden, d_head = total
        d_rows, d_columns = gradients(work, columns_of(head, start, size, options), start, options, limit)
        if d_head is not None and d_columns is not None:
            d_columns = d_columns.astype(head.dtype)
            d_head = jax.lax.dynamic_update_slice_in_dim(d_head, d_columns, start, options.columns)
        return d_hidden + d_rows, d_head

    d_hidden = jnp.zeros_like(work[0].hidden, dtype=rows.inv_temperature.dtype)
    d_head = jnp.zeros_like(head) if options.head_grad else None
    d_hidden, d_head = sweep(step, (d_hidden, d_head), head.shape[options.columns], block, rest_first=True)
    if tiles > 1:
        d_hidden = join(d_hidden, len(rows.targets))
    return d_hidden, d_head


class Logits(NamedTuple):
    """One block of logits and what is known of each."""

    z: Float[Array, "N C"]
    slope: Float[Array, "N C"] | None  # of the soft cap, None without
    is_target: Bool[Array, "N C"] | None  # None where a row has several
    kept: Bool[Array, "N C"] | None  # None if all are


def _logits(rows: Rows, columns: Array, start: Array | int, options: Options, limit: Array | None) -> Logits:
    z, slope = tempered(rows.hidden, columns, rows.inv_temperature, options)
    column, is_target = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1), None
    if rows.targets.ndim == 1:
        is_target = column == (rows.targets - start)[:, None]
    kept = None if rows.cut is None else (z >= rows.cut[:, None]) | is_target
    if limit is not None:
        real = column < limit - start
        kept = real if kept is None else kept & real
    return Logits(z, slope, is_target, kept)


def tempered(
    hidden: Float[Array, "N D"], columns: Array, inv_temperature: Float[Array, "N"], options: Options
) -> tuple[Float[Array, "N C"], Float[Array, "N C"] | None]:
    """Returns a block of logits z, and the slope of the soft cap at each, None without a cap."""
    z, slope = capped(einsum(f"nd,{options.layout}->nv", hidden, columns, inv_temperature.dtype), options)
    return unfused(z * inv_temperature[:, None]), slope


def capped(raw: Array, options: Options) -> tuple[Array, Array | None]:
    """Returns soft-capped logits and the slope of the cap, None without a cap."""
    if options.soft_cap is None:
        return raw, None
    u = jnp.tanh(raw / options.soft_cap)
    return options.soft_cap * u, 1 - u * u


def block_sums(block: Logits, rows: Rows, start: Array | int, options: Options) -> Sums:
    """Returns the sums over one block of logits."""
    z = block.z if block.kept is None else jnp.where(block.kept, block.z, NEG)
    max_logit = jnp.max(z, axis=1)
    shifted = z - max_logit[:, None]
    exp = jnp.exp(shifted)
    assert block.is_target is not None
    target_logit = jnp.sum(jnp.where(block.is_target, z, 0), axis=1)
    sums = Sums(max_logit, jnp.sum(exp, axis=1), jnp.sum(exp * shifted, axis=1), target_logit)
    return sums._replace(**_extras(block, z, sums, rows, start, options)) if options.extras else sums


def _extras(
    block: Logits, z: Float[Array, "N C"], sums: Sums, rows: Rows, start: Array | int, options: Options
) -> dict[str, Array]:
    """Returns the optional sums, and the first ones again where a block may hold no column that counts."""
    shifted = z - sums.max_logit[:, None]
    exp = jnp.exp(shifted) if block.kept is None else jnp.where(block.kept, jnp.exp(shifted), 0)
    first = jnp.argmax(z, axis=1).astype(jnp.int32)

    def above(x: Array) -> Array:
        assert rows.pivot is not None and block.is_target is not None
        return jnp.sum(jnp.where((z > rows.pivot[:, None]) & ~block.is_target, x, 0), axis=1)

    def second() -> Array:
        others = jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) != first[:, None]
        return jnp.max(jnp.where(others, z, NEG), axis=1)

    ways: dict[str, Callable[[], Array]] = {
        "argmax": lambda: first + jnp.int32(start),
        "second_logit": second,
        "sum_logits": lambda: jnp.sum(block.z if block.kept is None else jnp.where(block.kept, block.z, 0), axis=1),
        "sum_exp2": lambda: jnp.sum(exp * exp, axis=1),
        "sum_exp2_shifted": lambda: jnp.sum(exp * exp * shifted, axis=1),
        "sum_exp_shifted2": lambda: jnp.sum(exp * shifted * shifted, axis=1),
        "count_above": lambda: above(jnp.ones_like(z)),
        "sum_exp_above": lambda: above(exp),
    }
    found = {name: ways[name]() for name in options.extras}
    return found if block.kept is None else {"sum_exp": jnp.sum(exp, axis=1), **found}


def _gradients(
    work: tuple[Rows, Coefficients], columns: Array, start: Array | int, options: Options, limit: Array | None
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns one block's part of the gradient of hidden, and the gradient of its columns."""
    rows, coefficients = work
    block = _logits(rows, columns, start, options, limit)
    logp = (block.z - coefficients.max_logit[:, None]) - coefficients.log_sum[:, None]
    g = jnp.exp(logp) * (coefficients.constant[:, None] + coefficients.slope[:, None] * logp)
    if block.kept is not None:
        g = jnp.where(block.kept, g, 0)
    if block.is_target is not None:
        g = g + jnp.where(block.is_target, coefficients.target[:, None], 0)
    else:
        g = scattered(g, rows.targets - start, coefficients.target)
    g = g * rows.inv_temperature[:, None]
    if block.slope is not None:
        g = g * block.slope
    return products(g, rows.hidden, columns, options)


def scattered(g: Float[Array, "N C"], places: Int[Array, "N K"], x: Float[Array, "N K"]) -> Float[Array, "N C"]:
    """Adds x[n, k] to g[n, places[n, k]]; places outside the block are none."""
    row = jax.lax.broadcasted_iota(jnp.int32, places.shape, 0)
    return g.at[row, jnp.where(places < 0, g.shape[1], places)].add(x, mode="drop")


def products(
    g: Float[Array, "N C"], hidden: Float[Array, "N D"], columns: Array, options: Options
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of hidden and of a block of columns, from that by the raw logits."""
    # In the inputs' type, so that matmul units of half precision do all three products.
    dtype, g = g.dtype, g.astype(wider(hidden, columns))
    d_hidden = einsum(f"nv,{options.layout}->nd", g, columns, dtype)
    return d_hidden, einsum(f"nd,nv->{options.layout}", hidden, g, dtype) if options.head_grad else None


def _tiled_gradients(
    tiles: tuple[Rows, Coefficients], columns: Array, start: Array | int, options: Options, limit: Array | None
) -> tuple[Float[Array, "tiles n D"], Array | None]:
    """Returns what `_gradients` does, one tile of rows at a time."""

    def step(total: Array | None, tile: tuple[Rows, Coefficients]) -> tuple[Array | None, Array]:
        d_hidden, d_columns = _gradients(tile, columns, start, options, limit)
        return jax.tree.map(jnp.add, total, d_columns), d_hidden

    dtype = tiles[0].inv_temperature.dtype
    zero = jnp.zeros_like(columns, dtype=dtype) if options.head_grad else None
    d_columns, d_hidden = jax.lax.scan(step, zero, tiles)
    return d_hidden, d_columns


def einsum(equation: str, a: Array, b: Array, dtype: Any) -> Array:
    """Multiplies in the wider of the two types and accumulates in `dtype`."""
    wide = wider(a, b)
    return jnp.einsum(equation, a.astype(wide), b.astype(wide), preferred_element_type=dtype)


def blocking(rows: int, head: Array, options: Options) -> tuple[int, int]:
    """Returns the columns of a block, and the number of tiles that the rows are split into."""
    block = min(options.block or block_sizes.CHUNKED_BLOCK, head.shape[options.columns])
    return block, max(1, -(-rows * block // block_sizes.CHUNKED_LOGITS))


def split(tree: Tree, tiles: int) -> Tree:
    """Deals rows out to tiles, padded with zeros: [N, ...] -> [tiles, n, ...].

    Tile i gets rows i, i + tiles, ...: where rows are sharded, every device has its share of every tile.
    """

    def deal(x: Array) -> Array:
        x = jnp.pad(x, [(0, -len(x) % tiles)] + [(0, 0)] * (x.ndim - 1))
        return x.reshape(-1, tiles, *x.shape[1:]).swapaxes(0, 1)

    return jax.tree.map(deal, tree)


def join(tree: Tree, rows: int) -> Tree:
    """Undoes `split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[:rows], tree)
