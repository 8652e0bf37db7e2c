"""Advantages of the parts of a thinking trace between token budgets."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores import brpo_advantages, spread


def brpo_thinking(
    segment_ids: Int[Array, "P G T"],
    budget_rewards: Float[Array, "P G M A"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    prior: Literal["uniform", "linear", "last"] = "uniform",
    baseline: Literal["brpo", "none", "v1only", "v2only"] = "brpo",
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """Expected reward of the summaries at this and later budgets, minus a baseline of earlier ones and of the group.

        A[p,g,t] = ret[m] - (m v1[m] + (M - m) v2[m]) / M,   m = segment_ids[p,g,t]

    AnytimeReasoner's BRPO, Qi et al. 2025, https://arxiv.org/abs/2505.13438; ret, v1 and v2 are those of
    `brpo_advantages`, which also takes any other prior. The segment of a token is the first budget that contains it,
    so thinking that ends early has no token of the later ones. `prior`, the probability that a budget is asked for:
    equal, proportional to m + 1 (to the budget, when budgets are equally spaced), or 1 on the last. Defaults of 4
    budgets and 4 summaries at each. There is no std, so advantages shrink with the prior's tail. Equal rewards, at
    all budgets and in all of the group, give exactly 0. A group of one has 0 before the first budget, with `singleton
    = "raw"` its own return. The summaries' own advantages are `brpo_summary`.

    Fidelity: code.
    Degenerate: with one budget it is `dr_grpo` on the mean reward of the summaries.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    ordinal = jnp.arange(1, budget_rewards.shape[2] + 1, dtype=budget_rewards.dtype)
    weights = {"uniform": jnp.ones_like(ordinal), "linear": ordinal, "last": jnp.floor(ordinal / ordinal[-1])}[prior]
    advantages = brpo_advantages(budget_rewards, weights, valid, baseline=baseline, singleton=singleton)
    return spread(segment_ids, advantages, mask)
