"""Ratio of the whole completion."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def sequence(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    gradient: Literal["token", "mean"] = "token",
) -> Float[Array, "B T"]:
    """Log-ratio of the current to the old policy for the completion, per token of it, the same at each token.

        log s[b,t] = min(mean_u (logprobs[b,u] - old_logprobs[b,u]), 10)

    GSPO, Zheng et al. 2025, https://arxiv.org/abs/2507.18071, with verl's bound of 10 nats, where the gradient
    ends. `gradient = "token"` is GSPO-token (eq. 13 there, and verl): the value is that of the completion, the
    gradient at a token is that of its own log-prob, so that each token answers for its own advantage. `"mean"`
    differentiates the mean. Averaged over the completion's tokens the two have the same gradient where the
    advantage is the same at all of them. Pair it with `sequence_mean_token_mean`. 0 where masked.

    Fidelity: code.
    Degenerate: completions of one token give `token`, but for its bounds.
    """
    difference = jnp.where(mask, logprobs, 0) - jnp.where(mask, old_logprobs, 0)
    mean = masked.mean(difference, mask, axis=1)
    if gradient == "token":
        mean = jax.lax.stop_gradient(mean) + difference - jax.lax.stop_gradient(difference)
    return jnp.where(mask, jnp.minimum(mean, 10), 0)
