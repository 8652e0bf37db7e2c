"""Attention of a group of rows over themselves and over a prefix that they share, as two ordinary attentions.

The rows of a group are one long row to their prefix, so its keys and values are read once for all of them. With the
(o, lse) of the two parts, the attention over both is

    o = (exp(lse_own) o_own + exp(lse_prefix) o_prefix) / (exp(lse_own) + exp(lse_prefix))

Gradients go through the means and through the normalisers of both. The decomposition is that of Hydragen, Juravsky
et al. 2024, https://arxiv.org/abs/2402.05099.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.kernels.attention.common import Options, accumulation
from jaxrl_tok.kernels.attention.spans import Spans
from jaxrl_tok.kernels.attention.vjp import flash


def attend(
    q: Float[Array, "B T N H"],
    own: tuple[Float[Array, "B T K H"], Float[Array, "B T K H"], Spans],
    prefix: tuple[Float[Array, "P S K H"], Float[Array, "P S K H"], Spans],
    options: Options,
    base: str,
) -> Float[Array, "B T N H"]:
    """Returns the mean of the values that each query sees in both parts.

    Args:
        q: queries; rows g B / P and on are those of group g.
        own: keys, values and spans of the rows.
        prefix: keys, values and spans of the prefixes, whose queries are the [P, B / P * T] of its group.
        options: for both parts.
        base: the flash backend of both parts.
    """
    dtype = accumulation(q)
    together = q.reshape(len(prefix[0]), -1, *q.shape[2:])
    means, normalisers = [], []
    for queries, part in ((q, own), (together, prefix)):
        o, lse = flash(base, options, queries, *part)
        means.append(o.reshape(q.shape).astype(dtype))
        normalisers.append(lse.reshape(q.shape[:3]))
    top = jax.lax.stop_gradient(jnp.maximum(*normalisers))
    weights = [jnp.exp(lse - top)[..., None] for lse in normalisers]
    return ((weights[0] * means[0] + weights[1] * means[1]) / (weights[0] + weights[1])).astype(q.dtype)
