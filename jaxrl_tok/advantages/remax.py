"""Advantage over the greedy completion."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores import outcome_token_rewards, reward_to_go


def remax(
    rewards: Float[Array, "P G"],
    greedy_rewards: Float[Array, " P"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    token_rewards: Float[Array, "P G T"] | None = None,
) -> Float[Array, "P G T"]:
    """Reward that is still to come, minus the reward of the prompt's greedy completion.

        A[p,g,t] = sum_{s >= t} token_rewards[p,g,s] - greedy_rewards[p]

    ReMax, Li et al. 2023, https://arxiv.org/abs/2310.10505. Without `token_rewards` the outcome is the reward of
    the last token, which makes it r[p,g] - greedy_rewards[p] on every token; with them they hold the outcome
    too, and `rewards` is not read. Not relative to the group: equal rewards give 0 only where the greedy
    completion has the same.

    Fidelity: code.
    Degenerate: a greedy reward of 0 makes it `reinforce`; the group's mean in its place makes it `dr_grpo`.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    if token_rewards is None:
        token_rewards = outcome_token_rewards(rewards, mask)
    return jnp.where(mask, reward_to_go(token_rewards, mask) - greedy_rewards[:, None, None], 0)
