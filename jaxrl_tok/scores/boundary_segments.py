"""From the first tokens of segments to the segment of each token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def boundary_segments(boundaries: Bool[Array, "P G T"], mask: Bool[Array, "P G T"]) -> Int[Array, "P G T"]:
    """Numbers the segments from 0, given where each starts.

        segment_ids[t] = number of boundaries at or before t, minus 1

    -1 before the first boundary and where masked. A boundary on a masked token starts no segment.
    """
    return jnp.where(mask, jnp.cumsum(boundaries & mask, axis=2, dtype=jnp.int32) - 1, -1)
