"""Top-k filtering."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def top_k(logits: Float[Array, "B V"], top_k: Int[Array, " B"]) -> Float[Array, "B V"]:
    """Keeps the `top_k[b]` largest logits of a row, the others become -inf. 0 keeps all.

    Every token tied with the k-th is kept. Fan et al. 2018, https://arxiv.org/abs/1805.04833.
    """

    def keep(logits: Array) -> Array:
        ranked = -jnp.sort(-logits, axis=-1)
        at = jnp.clip(top_k - 1, 0, logits.shape[-1] - 1)
        lowest = jnp.take_along_axis(ranked, at[:, None], axis=-1)
        return jnp.where((logits >= lowest) | (top_k <= 0)[:, None], logits, -jnp.inf)

    return jax.lax.cond(jnp.any(top_k > 0), keep, lambda x: x, logits)
