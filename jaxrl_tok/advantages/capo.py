"""Advantages from the outcome and from a judge that marks wrong steps."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.scores import capo_rewards


def capo(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    wrong_steps: Bool[Array, "P G C S"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    outcome_weight: float = 2.0,
    process_weight: float = 1.0,
    vote: Literal["intersection", "majority", "union"] = "intersection",
    eps: float = 1e-6,
) -> Float[Array, "P G T"]:
    """Outcome minus a penalty on wrong steps, standardised over all tokens of the group.

        A[p,g,t] = (R[p,g,t] - mean_{g,t} R[p]) / (std_{g,t} R[p] + eps)
        R[p,g,t] = outcome_weight r[p,g] - process_weight [the step of t is wrong]

    CAPO, https://arxiv.org/abs/2508.02298, with its weights 2 and 1, four critiques and their intersection
    (`capo_vote`). A long completion weighs more in the mean than a short one. std is the unbiased one. Exactly 0
    where all of a group's tokens have one R; equal outcomes with some wrong steps are not that, nor is a group of
    one.

    Fidelity: reconstructed. The rewards are the authors', the standardisation over tokens read off a review.
    Degenerate: with no wrong step, and completions equally long, it is `grpo` up to its std.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    options = {"outcome_weight": outcome_weight, "process_weight": process_weight, "vote": vote}
    values = capo_rewards(rewards, segment_ids, wrong_steps, mask, **options)
    group, trained = (x.reshape(x.shape[0], -1) for x in (values, mask))
    centred = jnp.where(masked.is_constant(group, trained, axis=1), 0, group - masked.mean(group, trained, axis=1))
    relative = centred / (masked.std(group, trained, axis=1) + eps)
    return jnp.where(mask, relative.reshape(mask.shape), 0)
