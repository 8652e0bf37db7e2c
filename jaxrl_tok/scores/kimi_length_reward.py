"""Reward for the short ones of a group."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked


def kimi_length_reward(
    rewards: Float[Array, "P G"],
    lengths: Int[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
) -> Float[Array, "P G"]:
    """Reward from 1/2 for the group's shortest completion to -1/2 for its longest, to be added to the outcome.

        l[p,g] = 1/2 - (lengths[p,g] - min_g lengths[p]) / (max_g lengths[p] - min_g lengths[p])
        y[p,g] = l[p,g] where rewards[p,g] > 0, else min(0, l[p,g])

    Kimi k1.5, https://arxiv.org/abs/2501.12599; Long⊗Short uses it with lengths in characters. A wrong completion
    gains nothing by being short. 0 in a group of equal lengths, and for a completion that is not valid.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    length = lengths.astype(rewards.dtype)
    equal = masked.is_constant(length, valid, axis=1)
    shortest, longest = masked.bounds(length, valid, axis=1)
    shortness = 0.5 - (length - shortest) / jnp.where(equal, 1, longest - shortest)
    score = jnp.where(rewards > 0, shortness, jnp.minimum(shortness, 0))
    return jnp.where(valid & ~equal, score, 0)
