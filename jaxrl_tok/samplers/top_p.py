"""Nucleus filtering."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def top_p(logits: Float[Array, "B V"], top_p: Float[Array, " B"]) -> Float[Array, "B V"]:
    """Keeps the most probable tokens until their mass reaches `top_p[b]`, the others become -inf. 1 keeps all.

    In descending order a token is kept iff the mass before it is below `top_p`, so one is always kept.
    Tokens tied with the last kept one are kept too: the kept set is then given by a threshold, which the
    trainer needs (sorting libraries split such ties by index). Holtzman et al. 2019,
    https://arxiv.org/abs/1904.09751.
    """

    def keep(logits: Array) -> Array:
        ranked = -jnp.sort(-logits, axis=-1)
        mass = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
        before = jnp.concatenate([jnp.zeros_like(mass[:, :1]), mass[:, :-1]], axis=-1)
        kept = (before < top_p[:, None]) & (ranked > -jnp.inf)
        lowest = jnp.min(jnp.where(kept, ranked, jnp.inf), axis=-1, keepdims=True)
        return jnp.where((logits >= lowest) | (top_p >= 1)[:, None], logits, -jnp.inf)

    return jax.lax.cond(jnp.any(top_p < 1), keep, lambda x: x, logits)
