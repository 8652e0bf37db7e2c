"""Rewards in units of the spread of their group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores.centred_rewards import centred_rewards


def standardised_rewards(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G"]:
    """Reward minus the mean of its group's valid completions, over their standard deviation.

        z[p,g] = (r[p,g] - mean_g r[p]) / (std_g r[p] + eps)

    What `grpo`, `gdpo`, `tp_grpo` and `ucas` have in common; `std` is the unbiased one. Equal rewards give exactly
    0, and so does a group of one, or with `singleton = "raw"` its reward / (1 + eps): as `centred_rewards`.
    """
    centred = centred_rewards(rewards, valid, singleton=singleton)
    everyone = jnp.ones_like(rewards, bool) if valid is None else valid
    return centred / (masked.std(rewards, everyone, axis=1) + eps)
