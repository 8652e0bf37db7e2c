"""Rewards minus the mean of their group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def centred_rewards(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G"]:
    """Reward minus the mean of its group's valid completions.

        c[p,g] = r[p,g] - mean_g r[p]

    What the group-relative advantages have in common. Exactly 0 in a group whose rewards are all equal:
    decided by their equality, because the rounded mean of equal numbers differs from them and a division by a
    tiny standard deviation would blow that up. 0 for a completion that is not valid. A group with one valid
    completion gives 0, or with `singleton = "raw"` its reward, as verl does (there the mean of such a group
    is 0 and its std 1).
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    centred = rewards - masked.mean(rewards, valid, axis=1)
    centred = jnp.where(valid & ~masked.is_constant(rewards, valid, axis=1), centred, 0)
    if singleton == "raw":
        alone = valid & (jnp.sum(valid, axis=1, keepdims=True) == 1)
        centred = jnp.where(alone, rewards, centred)
    return centred
