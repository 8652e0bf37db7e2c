"""From tokens to their segments."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def segment_sums(
    token_rewards: Float[Array, "P G T"],
    segment_ids: Int[Array, "P G T"],
    step_mask: Bool[Array, "P G S"],
    mask: Bool[Array, "P G T"],
) -> Float[Array, "P G S"]:
    """Adds up the numbers of each segment's trained tokens.

        x[p,g,s] = sum_t token_rewards[p,g,t] [segment_ids[p,g,t] = s]

    0 for a segment that is not in `step_mask`, which also says how many there can be.
    """
    return jnp.where(step_mask, totals_by_id(jnp.where(mask, token_rewards, 0), segment_ids, step_mask.shape[2]), 0)


def totals_by_id(x: Float[Array, "*B T"], ids: Int[Array, "*B T"], number: int) -> Float[Array, "*B S"]:
    """Adds up each row's numbers that have the ids 0, 1, ... `number` - 1; other ids count nowhere."""
    inside = (ids >= 0) & (ids < number)
    add = functools.partial(jax.ops.segment_sum, num_segments=number)
    for _ in range(x.ndim - 1):
        add = jax.vmap(add)
    return add(jnp.where(inside, x, 0), jnp.where(inside, ids, 0))
