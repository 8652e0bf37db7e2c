"""Entropies on a scale from -1 to 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


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
    log_entropy = jnp.log(jnp.maximum(jnp.where(mask, jax.lax.stop_gradient(entropy), 1), 1e-8))
    values, trained = log_entropy.reshape(1, -1), mask.reshape(1, -1)
    pivot = masked.quantile(values, trained, quantile, method="nearest", axis_name=axis_name)
    centred = jnp.where(mask, log_entropy - pivot, 0)
    low, high = masked.bounds(centred, mask, axis_name=axis_name)
    above = jnp.minimum(centred / jnp.where(high > 0, high, 1), 1)
    below = jnp.maximum(centred / jnp.where(low < 0, -low, 1), -1)  # a division may be rounded beyond its end
    return jnp.where(centred > 0, above, -below if as_released else below)
