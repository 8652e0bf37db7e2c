"""Discounted sums of the rewards that are still to come."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def reward_to_go(
    token_rewards: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    holes: Literal["discount", "skip", "reset"] = "discount",
) -> Float[Array, "P G T"]:
    """Discounted sum of the rewards from each token on, 0 where masked.

        y[p,g,t] = r[p,g,t] + gamma y[p,g,t+1]

    A masked token has no reward of its own. What it does to the rewards behind it is `holes`:
    * "discount": it is a step, so they are discounted once more (OpenRLHF's REINFORCE);
    * "skip": it is no step, so they are not;
    * "reset": they are cut off, as in verl's REINFORCE++, where no token before a tool's output is told of
      what came after it.
    The three agree where only padding is masked, and the first two at gamma = 1.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    rewards = jnp.where(mask, token_rewards, 0)
    of_hole = {"discount": gamma, "skip": 1.0, "reset": 0.0}[holes]
    decay = jnp.where(mask, gamma, of_hole).astype(rewards.dtype)
    return jnp.where(mask, linear_recurrence(rewards, decay), 0)


def linear_recurrence(x: Float[Array, "*S"], decay: Float[Array, "*S"], *, reverse: bool = True) -> Float[Array, "*S"]:
    """Runs y[t] = x[t] + decay[t] y[t+1] along the last axis, or with y[t-1] when not `reverse`."""

    def compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
        return first[0] * then[0], then[0] * first[1] + then[1]

    return jax.lax.associative_scan(compose, (decay, x), reverse=reverse, axis=x.ndim - 1)[1]


def following(x: Float[Array, "*B T"], mask: Bool[Array, "*B T"]) -> Float[Array, "*B T"]:
    """Returns the value of the next unmasked token of the row behind each token, 0 where there is none."""
    length = mask.shape[-1]
    time = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    here_or_later = jax.lax.cummin(jnp.where(mask, time, length), axis=mask.ndim - 1, reverse=True)
    later = jnp.concatenate([here_or_later[..., 1:], jnp.full_like(here_or_later[..., :1], length)], axis=-1)
    values = jnp.take_along_axis(jnp.where(mask, x, 0), jnp.minimum(later, length - 1), axis=-1)
    return jnp.where(later < length, values, 0)
