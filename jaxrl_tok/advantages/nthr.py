"""Advantage with less blame for tokens that correct completions depend on."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import thr_scores


def nthr(
    advantages: Float[Array, "P G T"],
    rewards: Float[Array, "P G"],
    hidden: Float[Array, "P G T D"],
    token_errors: Float[Array, "P G T V"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    beta: float = 1.0,
    threshold: float = 0.5,
) -> Float[Array, "P G T"]:
    """The advantage, scaled down on those tokens of wrong completions whose penalty hurts the correct ones most.

        A'[p,g,t] = eta A[p,g,t] if g is wrong and s[p,g,t] > tau[p], else A[p,g,t]
        tau = beta min over correct k of mean_t s[p,k,t],   eta = 2 |1/2 - share of correct completions|

    NTHR, https://arxiv.org/abs/2505.18830; s is `thr_scores`, under the old policy. A completion is correct when its
    reward is above `threshold`; correct ones without a trained token set no bound. A group that is all correct or
    all wrong stays as it is. With half the group correct eta is 0.

    Fidelity: reconstructed. The formulas are from descriptions of the paper, not from its code.
    Degenerate: a group that is all correct or all wrong is unchanged.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    trained = mask & valid[:, :, None]
    scores = thr_scores(hidden, token_errors, rewards, mask, valid, threshold=threshold)
    correct = valid & (rewards > threshold)
    wrong = valid & ~correct
    n = jnp.maximum(jnp.sum(trained, axis=2, dtype=scores.dtype), 1)
    bounding = correct & jnp.any(trained, axis=2)
    lowest = jnp.min(jnp.where(bounding, jnp.sum(scores, axis=2) / n, jnp.inf), axis=1, keepdims=True)
    share = masked.count(correct, scores, axis=1) / jnp.maximum(masked.count(valid, scores, axis=1), 1)
    blamed = wrong & jnp.any(bounding, axis=1, keepdims=True)
    tau = beta * jnp.where(jnp.isfinite(lowest), lowest, 0)
    spared = blamed[:, :, None] & (scores > tau[:, :, None])
    factor = jnp.where(spared, (2 * jnp.abs(0.5 - share))[:, :, None], 1)
    return jnp.where(trained, advantages * factor, 0)
