"""Only the failures teach."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def relative_negative(
    advantages: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
) -> Float[Array, "P G T"]:
    """Keeps the advantages below 0 and makes the others 0.

        A'[p,g,t] = min(A[p,g,t], 0)

    Relative negative gradients, https://arxiv.org/abs/2510.04028: a failure is punished by how much worse it is
    than its group, where `psr_nsr`'s "negative" gives every failure -1. What is above 0 stays in the denominator of
    a token mean.

    Fidelity: reconstructed.
    Degenerate: advantages that are nowhere above 0 stay as they are; a group without a failure gives 0.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    return jnp.where(mask, jnp.minimum(advantages, 0), 0)
