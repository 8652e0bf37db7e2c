"""From segments, steps or nodes to their tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def spread(
    segment_ids: Int[Array, "P G T"],
    step_advantages: Float[Array, "P #G S"],
    mask: Bool[Array, "P G T"],
) -> Float[Array, "P G T"]:
    """Gives each trained token the number of the segment, step, item or node that it belongs to.

        x[p,g,t] = step_advantages[p,g,segment_ids[p,g,t]]

    0 for a token outside: its id is negative, or not below S. Nodes belong to the prompt, not to a completion, and
    come as `[P, 1, N]`. A number that no token asks for does not matter, NaN included.
    """
    inside = mask & (segment_ids >= 0) & (segment_ids < step_advantages.shape[2])
    numbers = jnp.take_along_axis(step_advantages, jnp.where(inside, segment_ids, 0), axis=2)
    return jnp.where(inside, numbers, 0)
