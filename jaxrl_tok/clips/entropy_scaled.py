"""Bounds for each segment, wider the higher its entropy."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import segment_mean


def entropy_scaled(
    old_entropy: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    low: float = 0.8,
    high: float = 1.2,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Bounds on the ratio whose distance from 1 follows the segment's mean entropy.

        low'[b,t] = max(1 - (1 - low) h[b,t], 0)        high'[b,t] = 1 + (high - 1) h[b,t]
        h[b,t] = mean entropy of the token's segment / mean entropy of the completion

    SSPO, https://arxiv.org/abs/2511.04256, scales the width by a normalised mean entropy of the segment; that it is
    normalised by the completion's mean, and the widths, are ours. Entropies are the old policy's. A completion
    whose entropy is 0 throughout has h = 1. A trained token outside every segment is a segment of its own.

    Raises:
        ConfigError: not low <= 1 <= high.

    Fidelity: reconstructed.
    Degenerate: one segment, or a constant entropy, is `asymmetric`.
    """
    if not low <= 1 <= high:
        raise ConfigError(f"entropy_scaled: low = {low!r} and high = {high!r} must have 1 between them")
    entropy = jnp.where(mask, old_entropy, 0)
    mean = masked.mean(entropy, mask, axis=1)
    h = segment_mean(entropy, segment_ids, mask) / jnp.where(mean > 0, mean, 1)
    h = jnp.where(mask & (mean > 0), h, 1)
    return jnp.maximum(1 - (1 - low) * h, 0), 1 + (high - 1) * h
