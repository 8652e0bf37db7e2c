"""Outcome advantages corrected where a judge found a thought wrong."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.scores import capo_vote, spread, standardised_rewards


def tp_grpo(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    wrong_steps: Bool[Array, "P G C S"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    alpha: float = 1.0,
    correct_above: float = 0.5,
    vote: Literal["intersection", "majority", "union"] = "intersection",
    eps: float = 1e-6,
) -> Float[Array, "P G T"]:
    """GRPO's advantage, lowered on the wrong thoughts of a right answer, kept on those alone of a wrong one.

        o = (r - mean_g r) / (std_g r + eps),   c = alpha * share of the group's answers that are right
        r > correct_above:  A[p,g,t] = o - c on a wrong thought, else o
        otherwise:          A[p,g,t] = o on a wrong thought, else 0

    TP-GRPO, He et al. 2025, https://arxiv.org/abs/2507.23317. Thoughts are `segment_ids`, neighbouring steps of one
    verdict merged; in a wrong answer a wrong thought is one that leads to what was answered. `wrong_steps` are
    verdicts on the thoughts, of several critiques by `vote`. std is the unbiased one. The value of alpha is not
    published. Process rewards are not scaled: in a group of right answers only, o is 0 and wrong thoughts still get
    -alpha, so equal rewards give 0 only where no thought is wrong. Alone in its group a completion has o = 0.

    Fidelity: reconstructed. From the paper's propositions.
    Degenerate: without a wrong thought, or with alpha = 0, right answers have `grpo`'s.
    """
    existing = jnp.ones_like(rewards, bool) if valid is None else valid
    mask = mask & existing[:, :, None]
    outcome = standardised_rewards(rewards, existing, eps=eps)
    right = existing & (rewards > correct_above)
    cost = alpha * masked.mean(right.astype(rewards.dtype), existing, axis=1)
    wrong = spread(segment_ids, capo_vote(wrong_steps, vote=vote).astype(rewards.dtype), mask) > 0
    of_right = jnp.where(wrong, (outcome - cost)[:, :, None], outcome[:, :, None])
    of_wrong = jnp.where(wrong, outcome[:, :, None], 0)
    return jnp.where(mask, jnp.where(right[:, :, None], of_right, of_wrong), 0)
