"""Train only on groups whose rewards differ."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def informative_groups(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["keep", "drop"] = "keep",
) -> Bool[Array, "P G"]:
    """Keeps the valid completions of the groups whose rewards are not all equal.

        keep[p,g] = std_g r[p] > 0

    DAPO's dynamic sampling, Yu et al. 2025, https://arxiv.org/abs/2503.14476, without its resampling, which the
    rollouts `dynamic` have. Decided by equality of the rewards, not by a rounded std. A group of one is kept, as in
    DAPO's code; `singleton = "drop"` drops it, since a group-relative advantage gives it nothing.

    Fidelity: code.
    Degenerate: equal rewards everywhere leave nothing to train on.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    keep = ~masked.is_constant(rewards, valid, axis=1)
    if singleton == "keep":
        keep = keep | (jnp.sum(valid, axis=1, keepdims=True) == 1)
    return valid & keep
