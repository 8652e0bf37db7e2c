"""How many more completions of each prompt DARS samples."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked

# What is whole but for rounding stays so: the next larger number would be a completion too many.
ROUNDING = 1e-4


def dars_extra_samples(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    most: int,
    schedule: Literal["equal_treatment", "hardness_weighted"] = "equal_treatment",
    std: bool = False,
) -> Int[Array, " P"]:
    """Completions to add to a prompt's first n, so that hard prompts weigh as much as those half solved, or more.

        a = mean_g r[p], and 0.5 / n where that is at most 1e-6;   0 more where a >= 0.5
        S = 2 a (1 - a), the mean of |r - a| over a group;   w = 1, "hardness_weighted" 2 (1 - a)
        min(ceil((w n / 2 - n S) / S), most)

    DARS, Yang et al. 2025, https://arxiv.org/abs/2508.13755: n + more of the completions have w times the sum of |A|
    that n have at a = 1/2. With `std` it is that of advantages divided by the group's deviation: S = 2 sqrt(a (1 - a)),
    and n in place of n / 2. `most` is what a group has room for; the paper's groups have up to 32 completions, 64 with
    "hardness_weighted". n counts the completions with a reward; without any there are 0 more. Rewards lie in [0, 1];
    those between count by their mean, as in the authors' code.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    count = masked.count(valid, rewards, axis=1)[:, 0]
    mean = masked.mean(rewards, valid, axis=1)[:, 0]
    accuracy = jnp.where(mean > 1e-6, mean, 0.5 / jnp.maximum(count, 1))
    hard = (accuracy < 0.5) & (count > 0)
    accuracy = jnp.where(hard, accuracy, 0.5)  # half solved, a group needs none
    weight = 2 * (1 - accuracy) if schedule == "hardness_weighted" else jnp.ones_like(accuracy)
    share = accuracy * (1 - accuracy)
    each, peak = (2 * jnp.sqrt(share), count) if std else (2 * share, count / 2)
    more = jnp.ceil((weight * peak - count * each) / each - ROUNDING)
    return jnp.clip(more, 0, most).astype(jnp.int32)
