"""Reinforcement from successes only, failures only, or unequal parts of both."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def psr_nsr(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    mode: Literal["weighted", "positive", "negative"] = "weighted",
    positive_weight: float = 0.1,
) -> Float[Array, "P G T"]:
    """Advantages of 1 for successes, of -1 for failures, or both with successes weighted down.

        positive:  A[p,g,t] = r[p,g]
        negative:  A[p,g,t] = r[p,g] - 1
        weighted:  A[p,g,t] = positive_weight if r[p,g] = 1,  -1 if r[p,g] = 0,  r[p,g] otherwise

    PSR, NSR and W-REINFORCE, https://arxiv.org/abs/2506.01347, for rewards of 0 and 1. There is no baseline: equal
    rewards do not give 0, and groups do not matter. The authors' trainer also drops the completions that "positive"
    and "negative" give 0, so that they leave the denominator of a token mean; here they stay in it.

    Fidelity: code.
    Degenerate: weighted with positive_weight = 1 is `reinforce` on rewards of 1 and -1.
    """
    if mode == "positive":
        advantages = rewards
    elif mode == "negative":
        advantages = rewards - 1
    else:
        advantages = jnp.where(rewards == 1, positive_weight, jnp.where(rewards == 0, -1, rewards))
    return masked.per_token(advantages if valid is None else jnp.where(valid, advantages, 0), mask)
