"""Advantage relative to the group's mean."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards


def max_rl(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
) -> Float[Array, "P G T"]:
    """Reward minus the group's mean, over that mean.

        A[p,g,t] = (r[p,g] - mean_g r[p]) / mean_g r[p]

    MaxRL, https://arxiv.org/abs/2602.02710. A group whose mean is not positive gives 0.

    Fidelity: paper.
    Degenerate: rewards of 0 and 1 with a share s of ones give 1/s - 1 and -1; equal rewards give exactly 0.
    """
    centred = centred_rewards(rewards, valid)
    mean = masked.mean(rewards, jnp.ones_like(rewards, bool) if valid is None else valid, axis=1)
    scaled = jnp.where(mean > 0, centred / jnp.where(mean > 0, mean, 1), 0)
    return masked.per_token(scaled, mask)
