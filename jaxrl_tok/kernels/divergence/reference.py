"""The definition of divergences: dense, at the highest matmul precision, with the gradient written out.

Holds [N, V] of each model; for tests, and for vocabularies and batches small enough not to care.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.kernels.divergence.common import Pair, PairOptions, Side, Terms, Weights, slopes, terms
from jaxrl_tok.kernels.token_score.common import Options
from jaxrl_tok.kernels.token_score.reference import logits, products, real


def forward(pair: Pair, head: Array, ref_head: Array, options: PairOptions, limit: Array | None = None) -> Terms:
    """Returns the sums over the first `limit` columns."""
    logp, _ = _log_probs(pair.policy, head, options.policy)
    logr, _ = _log_probs(pair.ref, ref_head, options.ref)
    found, tokens = terms(logp, logr, options.terms, options.beta), real(logp, limit)
    return Terms(**{name: jnp.sum(jnp.where(tokens, x, 0), axis=1) for name, x in found.items()})


def backward(
    pair: Pair, head: Array, ref_head: Array, weights: Weights, options: PairOptions, limit: Array | None = None
) -> tuple[Float[Array, "N D"], Array | None]:
    """Returns the gradients of the policy's hidden states, in the accumulation type, and of its head."""
    logp, dz_draw = _log_probs(pair.policy, head, options.policy)
    logr, _ = _log_probs(pair.ref, ref_head, options.ref)
    found = slopes(logp, logr, options.kinds, options.beta)
    g = weights.constant[:, None] * jnp.exp(logp) + sum(weights.of_kind[k][:, None] * x for k, x in found.items())
    g = jnp.where(real(logp, limit), g * dz_draw, 0)
    return products(g, pair.policy.hidden, head, options.policy)


def _log_probs(side: Side, head: Array, options: Options) -> tuple[Float[Array, "N V"], Float[Array, "N V"]]:
    z, dz_draw = logits(side.hidden, head, side.inv_temperature, options)
    return (z - side.max_logit[:, None]) - side.log_sum[:, None], dz_draw
