"""How evenly each token looks at what stands before it."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def normalized_attention_entropy(attention: Float[Array, "*B N N"]) -> Float[Array, "*B N"]:
    """Entropy of each token's attention over that of an even one, 0 to 1.

        E[t] = -sum_{s <= t} a[t,s] log a[t,s] / log(t + 1)

    https://arxiv.org/abs/2605.07660. `attention[t,s]` is how much token t looks at token s; what stands above the
    diagonal does not matter. The first token, which sees only itself, has 0. The paper averages E over heads and
    layers: leading axes here, so take the mean over them after.
    """
    size = attention.shape[-1]
    seen = jnp.tril(attention > 0)
    terms = jnp.where(seen, attention * jnp.log(jnp.where(seen, attention, 1)), 0)
    context = jnp.arange(1, size + 1, dtype=attention.dtype)
    even = jnp.broadcast_to(jnp.log(jnp.maximum(context, 2)), attention.shape[:-1])
    return -jnp.sum(terms, axis=-1) / even
