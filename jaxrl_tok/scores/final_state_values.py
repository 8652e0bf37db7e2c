"""State values with the outcome at their end."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def final_state_values(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    state_values: Float[Array, "P G S1"],
    mask: Bool[Array, "P G T"],
) -> Float[Array, "P G S1"]:
    """State values in which the state after a completion's last segment has the reward as its value.

        V[p,g,k] = r[p,g] where k > the last of the completion's segments, else state_values[p,g,k]

    So a difference of neighbouring values is the gain of the segment between them. What `state_values` holds behind
    the last segment does not matter.
    """
    last = jnp.max(jnp.where(mask, segment_ids, -1), axis=2, keepdims=True)
    states = jnp.arange(state_values.shape[2], dtype=segment_ids.dtype)[None, None]
    return jnp.where(states > last, rewards[:, :, None], state_values)
