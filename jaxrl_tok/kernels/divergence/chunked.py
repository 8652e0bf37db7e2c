"""Divergences with XLA alone: streams over blocks of both heads, on any platform.

Holds [N, block] logits of each model at most: two matmuls forward; backward those two and two more, with the head
of the reference a constant.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.kernels.divergence.common import Pair, PairOptions, Side, Terms, Weights, slopes, terms
from jaxrl_tok.kernels.token_score.chunked import blocking, join, products, split, tempered
from jaxrl_tok.kernels.token_score.common import Options, columns_of, sweep


def forward(pair: Pair, head: Array, ref_head: Array, options: PairOptions, limit: Array | None = None) -> Terms:
    """Returns the sums over the first `limit` columns."""
    block, tiles = blocking(len(pair.policy.log_sum), head, options.policy)

    def sums_of(tile: Pair) -> Terms:
        def step(total: Terms, start: Array | int, size: int) -> Terms:
            logp, _ = _log_probs(tile.policy, columns_of(head, start, size, options.policy), options.policy)
            logr, _ = _log_probs(tile.ref, columns_of(ref_head, start, size, options.ref), options.ref)
            found = terms(logp, logr, options.terms, options.beta)
            return jax.tree.map(jnp.add, total, Terms(**{k: _total(x, start, limit) for k, x in found.items()}))

        zero = Terms(**dict.fromkeys(options.terms, jnp.zeros_like(tile.policy.log_sum)))
        return sweep(step, zero, head.shape[options.policy.columns], block)

    if tiles == 1:
        return sums_of(pair)
    return join(jax.lax.map(sums_of, split(pair, tiles)), len(pair.policy.log_sum))


def backward(
    pair: Pair, head: Array, ref_head: Array, weights: Weights, options: PairOptions, limit: Array | None = None
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of the policy's hidden states, in the accumulation type, and of its head."""
    policy = options.policy
    block, tiles = blocking(len(pair.policy.log_sum), head, policy)
    dtype = pair.policy.log_sum.dtype
    work = split((pair, weights), tiles)

    def step(total: tuple[Array, Array | None], start: Array | int, size: int) -> tuple[Array, Array | None]:
        d_hidden, d_head = total
        columns, ref_columns = columns_of(head, start, size, policy), columns_of(ref_head, start, size, options.ref)

        def of_tile(d_columns: Array | None, tile: tuple[Pair, Weights]) -> tuple[Array | None, Array]:
            d_rows, more = _gradients(*tile, columns, ref_columns, options, None if limit is None else limit - start)
            return jax.tree.map(jnp.add, d_columns, more), d_rows

        zero = jnp.zeros_like(columns, dtype=dtype) if policy.head_grad else None
        d_columns, d_rows = jax.lax.scan(of_tile, zero, work)
        if d_head is not None and d_columns is not None:
            d_columns = d_columns.astype(head.dtype)
            d_head = jax.lax.dynamic_update_slice_in_dim(d_head, d_columns, start, policy.columns)
        return d_hidden + d_rows, d_head

    d_hidden = jnp.zeros_like(work[0].policy.hidden, dtype=dtype)
    d_head = jnp.zeros_like(head) if policy.head_grad else None
    d_hidden, d_head = sweep(step, (d_hidden, d_head), head.shape[policy.columns], block, rest_first=True)
    return join(d_hidden, len(pair.policy.log_sum)), d_head


def _gradients(
    pair: Pair, weights: Weights, columns: Array, ref_columns: Array, options: PairOptions, limit: Array | None
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns one block's part of the gradient of hidden, and the gradient of its columns."""
    logp, cap_slope = _log_probs(pair.policy, columns, options.policy)
    logr, _ = _log_probs(pair.ref, ref_columns, options.ref)
    g = weights.constant[:, None] * jnp.exp(logp)
    for kind, slope in slopes(logp, logr, options.kinds, options.beta).items():
        g = g + weights.of_kind[kind][:, None] * slope
    g = g * pair.policy.inv_temperature[:, None]
    if cap_slope is not None:
        g = g * cap_slope
    if limit is not None:
        g = jnp.where(jax.lax.broadcasted_iota(jnp.int32, g.shape, 1) < limit, g, 0)
    return products(g, pair.policy.hidden, columns, options.policy)


def _log_probs(side: Side, columns: Array, options: Options) -> tuple[Float[Array, "N C"], Array | None]:
    """Returns a block of log-probs, and the slope of the soft cap at each."""
    z, slope = tempered(side.hidden, columns, side.inv_temperature, options)
    return (z - side.max_logit[:, None]) - side.log_sum[:, None], slope


def _total(x: Float[Array, "N C"], start: Array | int, limit: Array | None) -> Float[Array, "N"]:
    if limit is not None:
        x = jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) < limit - start, x, 0)
    return jnp.sum(x, axis=1)
