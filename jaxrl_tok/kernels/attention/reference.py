"""The definition of attention: a dense mask and a softmax, at the highest matmul precision.

Holds [B, N, T, U]; for tests, and for sequences short enough not to care. Differentiated by JAX.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.kernels.attention.common import Options, accumulation, capped, heads_apart


def attend(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B U K H"],
    v: Float[Array, "B U K H"],
    mask: Bool[Array, "B T U"],
    options: Options,
) -> Float[Array, "B T N H"]:
    """Returns the mean of the values that each query sees, weighted by softmax; 0 where it sees none."""
    dtype, highest = accumulation(q), jax.lax.Precision.HIGHEST
    queries = heads_apart(q.astype(dtype), k.shape[2])
    s = jnp.einsum("BTKMH,BUKH->BKMTU", queries, k.astype(dtype), precision=highest) * dtype.type(options.scale)
    s, _ = capped(s, options.soft_cap)
    mask = mask[:, None, None]
    top = jax.lax.stop_gradient(jnp.max(s, axis=-1, keepdims=True, where=mask, initial=-jnp.inf))
    exp = jnp.where(mask, jnp.exp(jnp.where(mask, s - top, 0)), 0)
    total = exp.sum(axis=-1, keepdims=True)
    p = exp / jnp.where(total > 0, total, 1)
    o = jnp.einsum("BKMTU,BUKH->BTKMH", p, v.astype(dtype), precision=highest)
    return o.reshape(q.shape).astype(q.dtype)
