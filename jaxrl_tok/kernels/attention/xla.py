"""Attention as XLA alone does it, differentiated by JAX: dense scores, for short rows.

Holds [B, N, T, U] scores in the type of accumulation. A prefix is scored beside the rows' own tokens; it is never
copied to the rows that share it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.kernels.attention.common import HIDDEN, Options, accumulation, capped, heads_apart
from jaxrl_tok.types import Leaf


class Part(NamedTuple):
    """Keys and values of P rows, each read by the B / P queries' rows of its group, next to each other."""

    k: Leaf  # [P, U, K, H]
    v: Leaf  # [P, U, K, H]
    mask: Leaf  # bool[P or 1, B / P * T or 1, U], which keys the queries of the group see


def attend(q: Float[Array, "B T N H"], parts: list[Part], options: Options) -> Float[Array, "B T N H"]:
    """Returns the mean of the values that each query sees in all parts together.

    A query that sees none gets some finite mean of the values.
    """
    queries = heads_apart(q * jnp.asarray(options.scale, q.dtype), parts[0].k.shape[2])
    weights = _softmax([_scores(queries, part, options) for part in parts])
    return sum((_mean(w, part) for w, part in zip(weights[1:], parts[1:], strict=True)), _mean(weights[0], parts[0]))


def _scores(queries: Float[Array, "B T K M H"], part: Part, options: Options) -> Float[Array, "B K M T U"]:
    """Returns the scores of one part, hidden ones marked."""
    rows, size = queries.shape[:2]
    groups = len(part.k)
    queries = queries.reshape(groups, -1, *queries.shape[1:])
    s = jnp.einsum("PGTKMH,PUKH->PGKMTU", queries, part.k, preferred_element_type=accumulation(queries))
    s, _ = capped(s, options.soft_cap)
    mask = part.mask.reshape(len(part.mask), -1, min(size, part.mask.shape[1]), part.mask.shape[2])[:, :, None, None]
    return jnp.where(mask, s, HIDDEN).reshape(rows, *s.shape[2:])


def _mean(weights: Float[Array, "B K M T U"], part: Part) -> Float[Array, "B T N H"]:
    weights = weights.reshape(len(part.k), -1, *weights.shape[1:]).astype(part.v.dtype)
    o = jnp.einsum("PGKMTU,PUKH->PGTKMH", weights, part.v)
    return o.reshape(-1, o.shape[2], o.shape[3] * o.shape[4], o.shape[5])


def _softmax(parts: list[Array]) -> list[Array]:
    """Softmax over the last axes of several arrays together, without joining them."""
    top = parts[0].max(-1, keepdims=True)
    for part in parts[1:]:
        top = jnp.maximum(top, part.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    parts = [jnp.exp(part - top) for part in parts]
    total = sum((part.sum(-1, keepdims=True) for part in parts[1:]), parts[0].sum(-1, keepdims=True))
    return [part / total for part in parts]
