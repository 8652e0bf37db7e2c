"""Credit moved by the token's entropy and by how far its ratio has gone."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import normalized_entropy


def hapo_redistribute(
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    prepared: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    beta: float = 1.0,
) -> Float[Array, "B T"]:
    """More weight for uncertain tokens whose ratio has moved, less for certain ones whose ratio has not.

        inside[b,t] = (1 + low[b,t]) / 2 < rho[b,t] < (1 + high[b,t]) / 2
        w[b,t] = 1 + beta h[b,t]   where h > 0 and not inside, or h <= 0 and inside;   else 1

    HAPO, https://arxiv.org/abs/2509.16591: the redistribution of advantages, after the clip whose bounds (`hapo`)
    it halves. h in [-1, 1] is `normalized_entropy` of the current policy over the whole minibatch, from `prepare`.
    The ratio rho is a constant here. `as_released` gives the sign of the released code, where the most certain
    token too has h = 1 and no weight is below 1.

    Raises:
        ConfigError: `beta` is not in [0, 1], beyond which a weight could be negative.

    Fidelity: code.
    Degenerate: beta = 0 or a constant entropy is `uniform`.
    """
    if not 0 <= beta <= 1:
        raise ConfigError(f"hapo_redistribute: beta = {beta!r} must lie in [0, 1]")
    ratio = jnp.exp(jnp.where(mask, jax.lax.stop_gradient(log_ratio), 0))
    inside = ((1 + low) / 2 < ratio) & (ratio < (1 + high) / 2)
    moved = jnp.where(prepared > 0, ~inside, inside)
    return jnp.where(mask, 1 + beta * jnp.where(mask & moved, prepared, 0), 0)


# Over the whole minibatch, under the current policy.
prepare = normalized_entropy
