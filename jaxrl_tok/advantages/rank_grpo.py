"""Advantages of the items of a list, each among the items of the same rank."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.scores import spread
from jaxrl_tok.scores.outcome_token_rewards import ends


def rank_grpo(
    segment_ids: Int[Array, "P G T"],
    item_rewards: Float[Array, "P G I"],
    finished: Bool[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    shaping: float = 0.1,
    eps: float = 1e-4,
) -> Float[Array, "P G T"]:
    """Reward of the token's item, standardised over the group's items of that rank.

        A[p,g,t] = (R[p,g,k] - mean_g R[p,:,k]) / (std_g R[p,:,k] + eps),   k = segment_ids[p,g,t]

    Rank-GRPO, https://arxiv.org/abs/2510.20150, with R = `rank_rewards` or the hits themselves, and the ratio
    `segment` with `gradient = "mean"` and `items`. A token between items belongs to the one that it ends. The last
    token of a finished completion is its end token and gets 0. Shaping: tokens of items beyond the I-th get -shaping,
    the end token +shaping with exactly I items and -shaping with another number; 0.1 is the authors', 0 leaves it
    out. std is the unbiased one. Items that a completion does not have count in the statistics with their reward.
    Equal rewards at a rank give exactly 0, and so does a group of one, but for the shaping.

    Fidelity: code.
    Degenerate: one item and no shaping is `grpo` with its eps, but on the end token.
    """
    existing = jnp.ones(item_rewards.shape[:2], bool) if valid is None else valid
    mask = mask & existing[:, :, None]
    counted = jnp.broadcast_to(existing[:, :, None], item_rewards.shape)
    centred = item_rewards - masked.mean(item_rewards, counted, axis=1)
    centred = jnp.where(counted & ~masked.is_constant(item_rewards, counted, axis=1), centred, 0)
    of_items = spread(segment_ids, centred / (masked.std(item_rewards, counted, axis=1) + eps), mask)
    items = item_rewards.shape[2]
    end = ends(mask)[1] & mask & finished[:, :, None]
    last = jnp.max(jnp.where(mask, segment_ids, -1), axis=2, keepdims=True, initial=-1)
    at_end = jnp.where(last + 1 == items, shaping, -shaping)
    beyond = jnp.where(mask & (segment_ids >= items), -shaping, of_items)
    return jnp.where(end, at_end, beyond).astype(item_rewards.dtype)
