"""Min-p filtering."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def min_p(logits: Float[Array, "B V"], min_p: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Keeps tokens with p >= min_p[b] * max p, the others become -inf. 0 keeps all.

    The rule is relative to the most probable token. Nguyen et al. 2024, https://arxiv.org/abs/2407.01082.
    """
    lowest = jnp.max(logits, axis=-1) + jnp.log(jnp.maximum(min_p, 0.0))
    return jnp.where(logits >= lowest[:, None], logits, -jnp.inf)
