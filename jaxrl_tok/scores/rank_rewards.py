"""Reward of each rank of a list for what it and the later ones hit."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def rank_rewards(item_rewards: Float[Array, "P G I"]) -> Float[Array, "P G I"]:
    """Discounted gain of a list from each rank on, from which item hits.

        x[p,g,k] = sum_{j >= k} item_rewards[p,g,j] / log2(j + 2),   k and j from 0

    Rank-GRPO's log-decay reward, https://arxiv.org/abs/2510.20150: an item is not credited for what stood before it.
    Their other form credits each item with its own hit, which needs no function. A list in a wrong format has rewards
    0, which the caller sets.
    """
    ranks = jnp.arange(item_rewards.shape[2], dtype=item_rewards.dtype)
    gains = item_rewards / jnp.log2(ranks + 2)[None, None]
    return jnp.cumsum(gains[:, :, ::-1], axis=2)[:, :, ::-1]
