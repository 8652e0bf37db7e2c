"""Advantages of the parts of a thinking trace between budgets."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked

Baseline: TypeAlias = Literal["brpo", "none", "v1only", "v2only"]


def brpo_advantages(
    budget_rewards: Float[Array, "P G M A"],
    budget_prior: Float[Array, " M"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    baseline: Baseline = "brpo",
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G M"]:
    """Expected reward at the budgets from each one on, minus a baseline from the earlier ones and from the group.

        ret[m] = sum_{j >= m} P[j] r[j],   r[j] = mean over the A summaries at budget j
        v1[m] = (sum_{i < m} 2^i r[i] / sum_{i < m} 2^i) sum_{j >= m} P[j],   0 for m = 0
        v2[m] = mean over the group of ret[m],   0 in a group of one
        A[m] = ret[m] - (m v1[m] + (M - m) v2[m]) / M

    AnytimeReasoner's BRPO, https://arxiv.org/abs/2505.13438; P is `budget_prior`, here scaled to sum 1, the
    probability that a budget is asked for. "v1only" and "v2only" subtract one of the two, "none" nothing. There is no
    standard deviation. In a group all of whose rewards are equal, exactly 0 wherever a baseline is subtracted. A
    group of one has its own value as v2, or 0 with `singleton = "raw"`, as in the authors' code.
    """
    valid = jnp.ones(budget_rewards.shape[:2], bool) if valid is None else valid
    rewards = jnp.where(valid[:, :, None, None], budget_rewards, 0)
    mean = jnp.mean(rewards, axis=3)
    prior = (budget_prior / jnp.sum(budget_prior))[None, None]
    returns = _from_here(prior * mean)
    if baseline == "none":
        return returns
    own = _own_baseline(mean, prior)
    group = masked.mean(returns, jnp.broadcast_to(valid[:, :, None], returns.shape), axis=1)
    if singleton == "raw":
        group = jnp.where(jnp.sum(valid, axis=1)[:, None, None] > 1, group, 0)
    budgets = budget_rewards.shape[2]
    share = (jnp.arange(budgets, dtype=returns.dtype) / budgets)[None, None]
    subtracted = {"v1only": own, "v2only": group, "brpo": share * own + (1 - share) * group}[baseline]
    constant = _is_constant(rewards, valid, singleton)
    if baseline == "v1only":  # nothing comes before the first budget
        constant = constant & (share > 0)
    return jnp.where(valid[:, :, None] & ~constant, returns - subtracted, 0)


def _from_here(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Sums over this and all later budgets."""
    return jnp.cumsum(x[..., ::-1], axis=-1)[..., ::-1]


def _own_baseline(mean: Float[Array, "P G M"], prior: Float[Array, "1 1 M"]) -> Float[Array, "P G M"]:
    """Mean of the rewards at the earlier budgets, each counting twice as much as the one before it."""
    doubling = (2.0 ** jnp.arange(mean.shape[2], dtype=mean.dtype))[None, None]
    earlier = jnp.cumsum(doubling * mean, axis=2) - doubling * mean
    weight = jnp.cumsum(doubling, axis=2) - doubling
    return jnp.where(weight > 0, earlier / jnp.where(weight > 0, weight, 1), 0) * _from_here(prior)


def _is_constant(rewards: Float[Array, "P G M A"], valid: Bool[Array, "P G"], singleton: str) -> Bool[Array, "P 1 1"]:
    """Says whether a group's rewards are all equal; a group of one that keeps its reward is none."""
    rows = rewards.reshape(rewards.shape[0], -1)
    counted = jnp.broadcast_to(valid[:, :, None, None], rewards.shape).reshape(rows.shape)
    constant = masked.is_constant(rows, counted, axis=1)
    if singleton == "raw":
        constant = constant & (jnp.sum(valid, axis=1, keepdims=True) > 1)
    return constant[:, :, None]
