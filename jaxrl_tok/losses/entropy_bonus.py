"""Reward for an undecided policy."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def entropy_bonus(entropy: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Negated entropy of the current policy, with its gradient, 0 where masked.

        loss[b,t] = -H[b,t]

    The entropy term of PPO, eq. 9 of Schulman et al. 2017, https://arxiv.org/abs/1707.06347; the recipe's weight is
    its coefficient. The gradient is that of the distribution's entropy, not of the sampled token's log-prob. With
    a target for the entropy it is `adaptive_entropy_bonus`. In nats.

    Fidelity: code.
    Degenerate: a uniform policy has gradient 0.
    """
    return -jnp.where(mask, entropy, 0)
