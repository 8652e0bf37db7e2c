"""Rewards of tokens from the outcome and from a judge of the steps."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores.capo_vote import Vote, capo_vote
from jaxrl_tok.scores.spread import spread


def capo_rewards(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    wrong_steps: Bool[Array, "P G C S"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    outcome_weight: float = 2.0,
    process_weight: float = 1.0,
    vote: Vote = "intersection",
) -> Float[Array, "P G T"]:
    """Outcome of the completion minus a penalty on the tokens of its wrong steps.

        R[p,g,t] = outcome_weight r[p,g] - process_weight [the step of t is wrong]

    CAPO, https://arxiv.org/abs/2508.02298, in which r is 1 for a correct answer and 0 for another, and the weights 2
    and 1 let the outcome dominate. Which steps are wrong: `capo_vote`. 0 where masked.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    wrong = spread(segment_ids, capo_vote(wrong_steps, vote=vote).astype(rewards.dtype), mask)
    return jnp.where(mask, outcome_weight * rewards[:, :, None] - process_weight * wrong, 0)
