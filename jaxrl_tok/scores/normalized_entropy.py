"""Entropies on a scale from -1 to 1."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


class EntropyScale(NamedTuple):
    """Log-entropies of a batch: the one with the value 0, and how far others lie below and above it."""

    pivot: Array  # f32[]
    low: Array  # f32[], of the smallest less the pivot, at most 0
    high: Array  # f32[], of the largest less the pivot, at least 0


def normalized_entropy(
    entropy: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    quantile: float = 0.8,
    as_released: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "B T"]:
    """Log-entropy relative to a quantile of the batch, scaled so that the largest is 1 and the smallest -1.

        x[b,t] = log max(H[b,t], 1e-8) - its `quantile` over the batch
        h[b,t] = x / max x where x > 0, x / |min x| where x < 0

    HAPO, https://arxiv.org/abs/2509.16591. The quantile is the nearest order statistic, so that its token has
    exactly h = 0. The code divides by the root mean square in between, which cancels. `as_released` divides the
    negative side by the negative minimum, as the released code does: there the most certain token has h = 1 too and
    none is below 0. Equal entropies give 0, masked tokens too. Carries no gradient. The batch is the whole one
    under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards.
    """
    scale = entropy_scale(entropy, mask, quantile=quantile, axis_name=axis_name)
    return jnp.where(mask, on_scale(jnp.where(mask, entropy, 1), scale, as_released=as_released), 0)


def entropy_scale(
    entropy: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    quantile: float = 0.8,
    axis_name: str | None = None,
) -> EntropyScale:
    """Returns the scale of a batch, as in `normalized_entropy`; all 0 for a batch without a token."""
    log_entropy = _log(jnp.where(mask, entropy, 1))
    values, trained = log_entropy.reshape(1, -1), mask.reshape(1, -1)
    pivot = masked.quantile(values, trained, quantile, method="nearest", axis_name=axis_name)
    low, high = masked.bounds(jnp.where(mask, log_entropy - pivot, 0), mask, axis_name=axis_name)
    return EntropyScale(pivot[0, 0], low, high)


def on_scale(entropy: Float[Array, "*S"], scale: EntropyScale, *, as_released: bool = False) -> Float[Array, "*S"]:
    """Places entropies, of the scale's batch or of another one, on it; what lies beyond an end is put there.

    A side without extent gives 0: with a scale of zeros every entropy does.
    """
    centred = _log(entropy) - scale.pivot
    # A division may be rounded beyond its end, too.
    above = jnp.minimum(centred / jnp.where(scale.high > 0, scale.high, jnp.inf), 1)
    below = jnp.maximum(centred / jnp.where(scale.low < 0, -scale.low, jnp.inf), -1)
    return jnp.where(centred > 0, above, -below if as_released else below)


def _log(entropy: Array) -> Array:
    return jnp.log(jnp.maximum(jax.lax.stop_gradient(entropy), 1e-8))
