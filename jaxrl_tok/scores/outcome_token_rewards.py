"""The outcome of a completion as the reward of its last token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def outcome_token_rewards(
    rewards: Float[Array, "P G"], mask: Bool[Array, "P G T"], valid: Bool[Array, "P G"] | None = None
) -> Float[Array, "P G T"]:
    """Puts the completion's reward on its last trained token, 0 on the others.

        y[p,g,t] = r[p,g] if t is the last token with mask[p,g,t] else 0

    What a method of token rewards (`reinforce_pp`, `gae`) sees of an outcome. A completion without a trained
    token, or that is not valid, gets 0 everywhere.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    _, last = ends(mask)
    return jnp.where(last, rewards[:, :, None], 0)


def ends(mask: Bool[Array, "*B T"]) -> tuple[Bool[Array, "*B T"], Bool[Array, "*B T"]]:
    """Marks the first and the last unmasked token of each row."""
    time = jnp.broadcast_to(jnp.arange(mask.shape[-1], dtype=jnp.int32), mask.shape)
    first = jnp.min(jnp.where(mask, time, mask.shape[-1]), axis=-1, keepdims=True, initial=mask.shape[-1])
    last = jnp.max(jnp.where(mask, time, -1), axis=-1, keepdims=True, initial=-1)
    return time == first, time == last
