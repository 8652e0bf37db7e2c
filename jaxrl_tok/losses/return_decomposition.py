"""Squared error of a proxy reward whose sum is to be the outcome."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def return_decomposition(
    proxy_rewards: Float[Array, "B T"],
    rewards: Float[Array, " B"],
    mask: Bool[Array, "B T"],
    valid: Bool[Array, " B"] | None = None,
) -> Float[Array, " B"]:
    """Squared distance of the mean proxy reward from the outcome per token, one number a completion.

        loss[b] = ((sum_t proxy[b,t] - r[b]) / n[b])^2,   n = trained tokens

    The loss that LaRe trains its latent reward with, https://arxiv.org/abs/2412.11120, averaged by `row_mean`:
    a small model of rubric features gives `proxy_rewards`, with gradient, and learns to share the outcome among the
    tokens. 0 for a completion without a trained token or not valid.

    Fidelity: code.
    Degenerate: completions of one token give the mean squared error of the proxy.
    """
    present = jnp.any(mask, axis=1) if valid is None else jnp.any(mask, axis=1) & valid
    n = jnp.maximum(masked.count(mask, proxy_rewards, axis=1)[:, 0], 1)
    total = masked.total(proxy_rewards, mask, axis=1)[:, 0]
    error = jnp.where(present, total, 0) - jnp.where(present, rewards, 0)
    return (error / n) ** 2
