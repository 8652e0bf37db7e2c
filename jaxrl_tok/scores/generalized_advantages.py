"""Advantages and returns from a critic's values."""

from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores.reward_to_go import following, reward_to_go

Holes: TypeAlias = Literal["skip", "zero"]


class GeneralizedAdvantages(NamedTuple):
    """What the policy and the critic learn from."""

    advantages: Float[Array, "P G T"]
    returns: Float[Array, "P G T"]  # targets of the critic


def generalized_advantages(
    token_rewards: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    holes: Holes = "skip",
) -> GeneralizedAdvantages:
    """Exponentially weighted sum of the temporal differences of a critic, and the returns it should predict.

        A[p,g,t] = d[p,g,t] + gamma lam A[p,g,t'],   d[p,g,t] = r[p,g,t] + gamma V[p,g,t'] - V[p,g,t]
        returns = A + V,   t' the next token, V = A = 0 behind the last

    GAE, Schulman et al. 2015, https://arxiv.org/abs/1506.02438. `holes` says what a masked token inside a
    completion (a tool's output) is: "skip" no step at all, t' being the next trained token (verl); "zero" a
    step of reward and value 0, so that the token before it bootstraps from 0 (TRL, OpenRLHF). They agree where
    only padding is masked. Both results are 0 on masked tokens and in completions that are not valid.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    rewards, values = jnp.where(mask, token_rewards, 0), jnp.where(mask, values, 0)
    if holes == "skip":
        steps, after = mask, following(values, mask)
    else:
        steps = jnp.ones_like(mask)
        after = jnp.concatenate([values[..., 1:], jnp.zeros_like(values[..., :1])], axis=-1)
    differences = rewards + gamma * after - values
    advantages = reward_to_go(differences, steps, gamma=gamma * lam, holes="skip")
    advantages = jnp.where(mask, advantages, 0)
    return GeneralizedAdvantages(advantages, advantages + values)
