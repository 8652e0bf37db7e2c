"""Surrogate of the geometric mean of a completion's ratios."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def gmpo(
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    eps: float = 0.0,
) -> Float[Array, "B T"]:
    """Loss of the completion, the same at each of its tokens, from the geometric mean of its clipped ratios.

        loss[b,t] = -w A[b] exp(sum_u x[b,u] / (n[b] + eps)),   n = trained tokens
        x = sgn(A) min(sgn(A) log rho, sgn(A) clip(log rho, log low, log high)),   rho = exp(log_ratio)
        A[b] = sum_u A[b,u] / (n[b] + eps)

    GMPO, https://arxiv.org/abs/2507.20673, whose bounds are exp(-0.4) and exp(0.4): `asymmetric` with low = 0.67032
    and high = 1.49182. Every token carries the completion's loss, so that `sequence_mean_token_mean` is the paper's
    mean over completions; a completion without a trained token has none, and counts there only with
    `rows = "all"`, as in verl. Clipping acts on the logarithms, before their mean. verl adds `eps = 1e-8`. The
    advantage is meant to be the same at all tokens; where it is not, its mean counts, and its signs choose the side
    of the clip. A weight scales the loss at its token, not the token's share of the mean.

    Fidelity: code.
    Degenerate: completions of one token give `ppo_clip`.
    """
    x, advantages = jnp.where(mask, log_ratio, 0), jnp.where(mask, advantages, 0)
    sign = jnp.sign(advantages)
    clipped = jnp.clip(x, jnp.log(jnp.where(mask, low, 1)), jnp.log(jnp.where(mask, high, 1)))
    pessimistic = sign * jnp.minimum(sign * x, sign * clipped)
    length = jnp.maximum(masked.count(mask, x, axis=1) + eps, 1)
    ratio = jnp.exp(masked.total(pessimistic, mask, axis=1) / length)
    advantage = masked.total(advantages, mask, axis=1) / length
    return -advantage * ratio * jnp.where(mask, token_weights, 0)
