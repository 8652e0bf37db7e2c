"""Bonus for tokens at which the policy was undecided."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def entropy_shaping(
    advantages: Float[Array, "P G T"],
    old_entropy: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    alpha: float = 0.4,
    kappa: float = 2.0,
) -> Float[Array, "P G T"]:
    """The advantage plus the token's entropy, bounded by a share of the advantage.

        A'[p,g,t] = A[p,g,t] + min(alpha H[p,g,t], |A[p,g,t]| / kappa)

    Cheng et al. 2025, https://arxiv.org/abs/2506.14758; alpha is 0.4 with GRPO and 0.1 with PPO there. With kappa
    above 1 no sign changes. The bonus is positive for every sign: where A < 0 it weakens the penalty. An advantage
    of 0 stays 0. Entropies are the old policy's, in nats.

    Raises:
        ConfigError: `alpha` is negative or `kappa` not positive.

    Fidelity: paper.
    Degenerate: alpha = 0 changes nothing.
    """
    if not (alpha >= 0 and kappa > 0):
        raise ConfigError(f"entropy_shaping: alpha = {alpha!r} must be at least 0 and kappa = {kappa!r} positive")
    mask = mask if valid is None else mask & valid[:, :, None]
    return jnp.where(mask, advantages + jnp.minimum(alpha * old_entropy, jnp.abs(advantages) / kappa), 0)
