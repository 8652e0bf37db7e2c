"""Policy gradient weighted by a capped ratio that has no gradient."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def cispo(
    logprobs: Float[Array, "B T"],
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    cap: Literal["both", "upper"] = "both",
) -> Float[Array, "B T"]:
    """Log-prob times the advantage, weighted by the capped ratio, 0 where masked.

        loss[b,t] = -w sg(c) A logprobs[b,t],   c = clip(rho, low, high) or min(rho, high),   rho = exp(log_ratio)

    CISPO of MiniMax-M1, https://arxiv.org/abs/2506.13585: no token loses its gradient, which is -w c A. `cap =
    "both"` is verl's; `"upper"` leaves the lower bound unread, as TRL does and as the paper runs it. `high` bounds
    the ratio itself: TRL's absolute cap of 5 is `high = 5`, verl's epsilon of 0.28 is `high = 1.28`. The value is
    no surrogate around 1, so it does not compare with PPO's. Gradients flow through `logprobs` only.

    Fidelity: code.
    Degenerate: at the old policy the gradient is that of `ppo_clip`.
    """
    ratio = jnp.exp(jnp.where(mask, jax.lax.stop_gradient(log_ratio), 0))
    capped = jnp.minimum(ratio, jnp.where(mask, high, 1))
    if cap == "both":
        capped = jnp.maximum(capped, jnp.where(mask, low, 1))
    logprobs, advantages, weights = (jnp.where(mask, x, 0) for x in (logprobs, advantages, token_weights))
    return -weights * capped * advantages * logprobs
