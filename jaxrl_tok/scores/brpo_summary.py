"""Advantages of the summaries that were sampled at the budgets of a thinking trace."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def brpo_summary(
    budget_rewards: Float[Array, "P G M A"],
    valid: Bool[Array, "P G"] | None = None,
) -> Float[Array, "P G M A"]:
    """Reward of a summary minus the mean of its siblings', those that continue the same truncated trace.

        A[p,g,m,a] = r[p,g,m,a] - mean_a r[p,g,m],   with one summary each: - mean_g r[p,:,m,a]

    AnytimeReasoner, https://arxiv.org/abs/2505.13438. Summaries are completions of their own, after the trace, which
    is why this gives a number for each of them and not for the trace's tokens. Equal rewards give exactly 0.
    """
    valid = jnp.ones(budget_rewards.shape[:2], bool) if valid is None else valid
    counted = jnp.broadcast_to(valid[:, :, None, None], budget_rewards.shape)
    axis = 3 if budget_rewards.shape[3] > 1 else 1
    centred = budget_rewards - masked.mean(budget_rewards, counted, axis=axis)
    return jnp.where(counted & ~masked.is_constant(budget_rewards, counted, axis=axis), centred, 0)
