"""The one differentiation rule of divergences, whichever backend does the sums, and wherever the heads lie."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrl_tok import compat
from jaxrl_tok.kernels.divergence import chunked, pallas_tpu, reference
from jaxrl_tok.kernels.divergence.common import Pair, PairOptions, Side, Terms, weights_of
from jaxrl_tok.kernels.token_score import parts, vjp
from jaxrl_tok.kernels.token_score.common import Options, Rows
from jaxrl_tok.kernels.token_score.statistics import log_sum_of


def runs_everywhere(pair: Pair, head: Array, ref_head: Array, options: PairOptions) -> str | None:
    """Returns why a backend cannot run on these arrays, here: for no reason."""
    return None


class Backend(NamedTuple):
    """The functions of a backend, as `common` describes them, and why it cannot run, None if it can."""

    forward: Callable[..., Terms]
    backward: Callable[..., tuple[Array, Array | None]] = chunked.backward
    obstacle: Callable[[Pair, Array, Array, PairOptions], str | None] = runs_everywhere


# Best first; the first phase is that backend's of token scoring, by the same name.
BACKENDS = {
    "pallas_tpu": Backend(pallas_tpu.forward, obstacle=pallas_tpu.obstacle),
    "chunked": Backend(chunked.forward),
    "reference": Backend(reference.forward, reference.backward),
    "pallas_tpu_interpret": Backend(functools.partial(pallas_tpu.forward, interpret=True)),
}


@functools.partial(jax.jit, static_argnums=(0, 1))
def normalised(options: Options, backend: str, hidden: Array, inv_temperature: Array, head: Array) -> Side:
    """Returns one model's half of the tokens, with its normalisers: the first phase."""
    nowhere = jnp.full_like(inv_temperature, -1, dtype=jnp.int32)
    rows = Rows(hidden, nowhere, inv_temperature, cut=None)
    varying = compat.vary_together((rows, head))
    sums = parts.forward(vjp.BACKENDS[backend].forward, *varying, options)
    return Side(hidden, inv_temperature, sums.max_logit, log_sum_of(sums))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _diverge(options: PairOptions, backend: str, pair: Pair, head: Array, ref_head: Array) -> Terms:
    """Returns the sums over the whole vocabulary."""
    pair, head, ref_head = compat.vary_together((pair, head, ref_head))
    policy = options.policy

    def part_of(start: Array | int, size: int) -> Terms:
        tiles = parts.tile_of(head, start, size, policy), parts.tile_of(ref_head, start, size, options.ref)
        limit = parts.limit_of(size, parts.first_column(head, start, policy), policy)
        return BACKENDS[backend].forward(pair, *tiles, options, limit)

    def add(a: Terms, b: Terms) -> Terms:
        return jax.tree.map(jnp.add, a, b)

    def zero() -> Terms:
        return Terms(**dict.fromkeys(options.terms, jnp.zeros_like(pair.policy.log_sum)))

    sums = parts.over_tiles(part_of, add, zero, head, policy)
    if policy.vocab_axis is None:
        return sums
    leaves, tree = jax.tree.flatten(sums)
    return jax.tree.unflatten(tree, list(jax.lax.psum(jnp.stack(leaves), policy.vocab_axis)))


def _diverge_forward(options: PairOptions, backend: str, pair: Pair, head: Array, ref_head: Array) -> tuple:
    sums = _diverge(options, backend, pair, head, ref_head)
    return sums, (pair, head, ref_head, sums)


def _diverge_backward(options: PairOptions, backend: str, residuals: tuple, cotangents: Terms) -> tuple:
    original, *_ = residuals
    pair, head, ref_head, sums, cotangents = compat.vary_together((*residuals, cotangents))
    policy = options.policy
    weights = weights_of(sums, {kind: getattr(cotangents, kind) for kind in options.kinds}, options.beta)

    def gradients(tile: Array, start: Array | int) -> tuple[Array, Array | None]:
        size = tile.shape[policy.columns]
        limit = parts.limit_of(size, parts.first_column(head, start, policy), policy)
        ref_tile = parts.tile_of(ref_head, start, size, options.ref)
        return BACKENDS[backend].backward(pair, tile, ref_tile, weights, options, limit)

    d_hidden, d_head = parts.through_tiles(gradients, pair.policy.hidden, head, pair.policy.log_sum.dtype, policy)
    d_hidden = parts.whole_gradient(d_hidden, original.policy.hidden, policy)
    return Pair(policy=Side(d_hidden, None, None, None), ref=Side(None, None, None, None)), d_head, None


_diverge.defvjp(_diverge_forward, _diverge_backward)

# Compiled as one even where the caller does not: a scan run op by op is compiled anew at every call.
diverge_rows = jax.jit(_diverge, static_argnums=(0, 1))
