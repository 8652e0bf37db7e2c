"""The same weight for every token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def uniform(mask: Bool[Array, "P G T"]) -> Float[Array, "P G T"]:
    """Weight 1 on every trained token, 0 on the others.

        w[p,g,t] = 1

    The plain policy gradient, as in PPO, https://arxiv.org/abs/1707.06347.

    Fidelity: code.
    Degenerate: what the other weights are when they tell no token from another.
    """
    return jnp.where(mask, 1.0, 0.0)
