"""From tokens to their segments."""

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
    steps = step_mask.shape[2]
    inside = mask & (segment_ids >= 0) & (segment_ids < steps)
    numbers = jnp.where(inside, token_rewards, 0)

    def add(sums: Float[Array, " S"], numbers: Float[Array, " T"], ids: Int[Array, " T"]) -> Float[Array, " S"]:
        return sums.at[ids].add(numbers)

    nothing = jnp.where(step_mask, 0, 0).astype(numbers.dtype)  # laid over devices as the mask is
    sums = jax.vmap(jax.vmap(add))(nothing, numbers, jnp.where(inside, segment_ids, 0))
    return jnp.where(step_mask, sums, 0)
