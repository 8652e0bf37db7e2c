"""Credit in proportion to how far the policy's distribution has moved."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def divergence_weight(
    js_to_ref: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    strength: float = 1.0,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Weight that grows with the token's Jensen-Shannon divergence from the reference, of mean 1 over the batch.

        w[p,g,t] = 1 + strength * (JS[p,g,t] / mean JS - 1)

    "Sparse but critical", https://arxiv.org/abs/2603.22446, measures with this divergence where a trained policy
    differs from the one it started from, and weighs by it. The divergence is the paper's, the weight our form of
    it. The mean is over the whole batch under `jit` on a mesh; inside `shard_map` over the shard, or with
    `axis_name` over all shards.

    Raises:
        ConfigError: `strength` is not in [0, 1], beyond which a weight could be negative.

    Fidelity: reconstructed.
    Degenerate: strength = 0, or a policy equal to the reference, is `uniform`.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"divergence_weight: strength = {strength!r} must lie in [0, 1]")
    divergence = jnp.where(mask, jnp.maximum(js_to_ref, 0), 0)
    mean = masked.mean(divergence, mask, axis_name=axis_name)
    relative = jnp.where(mean > 0, divergence / jnp.where(mean > 0, mean, 1), 1)
    return jax.lax.stop_gradient(jnp.where(mask, 1 - strength + strength * relative, 0))
