"""Rewards minus the mean of the others of their group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores.centred_rewards import centred_rewards


def leave_one_out(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G"]:
    """Reward minus the mean reward of the group's other valid completions.

        y[p,g] = r[p,g] - sum_{k != g} r[p,k] / (n - 1) = n / (n - 1) (r[p,g] - mean_g r[p])

    What `rloo`, `oprl` and `min_form_returns` have in common. Equal rewards give exactly 0, and so does a group of
    one, or with `singleton = "raw"` its reward: as `centred_rewards`.
    """
    centred = centred_rewards(rewards, valid, singleton=singleton)
    n = masked.count(jnp.ones_like(rewards, bool) if valid is None else valid, rewards, axis=1)
    return centred * jnp.where(n > 1, n / jnp.maximum(n - 1, 1), 1)
