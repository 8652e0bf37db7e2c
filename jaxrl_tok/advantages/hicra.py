"""More credit for planning tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def hicra(
    advantages: Float[Array, "P G T"],
    planning: Bool[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    alpha: float = 0.2,
) -> Float[Array, "P G T"]:
    """Raises the advantages of planning tokens: praise grows and blame shrinks by the share alpha.

        A'[p,g,t] = A[p,g,t] + alpha |A[p,g,t]| where planning[p,g,t], else A[p,g,t]

    HICRA, https://arxiv.org/abs/2509.03646, on `dr_grpo`'s advantages there. A token plans where it lies in one of
    the n-grams of 3 to 5 words that many correct solutions share.

    Fidelity: reconstructed. From two accounts of the paper that agree; there is no released code.
    Degenerate: alpha = 0, or no planning token, changes nothing.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    kept = jnp.where(mask, advantages, 0)
    return jnp.where(planning, kept + alpha * jnp.abs(kept), kept)
