"""What the backends of attention share: the problem's static half, and the flash form of its two passes.

With s[q, k] = cap(scale * q . k), cap(x) = c tanh(x / c) or x without a soft cap, and sums over the keys that q
sees, a flash backend is two functions:

    forward(q, k, v, spans, options) -> (o, lse)
        lse[q] = log sum_k exp s[q, k],   o[q] = sum_k p[q, k] v[k],   p[q, k] = exp(s[q, k] - lse[q])
    backward(q, k, v, spans, lse, delta, d_o, options) -> (d_q, d_k, d_v)
        d_s[q, k] = p[q, k] (d_o[q] . v[k] - delta[q]) cap'(scale * q . k)

with `delta = d_o . o - d_lse`. So parts of the keys can be attended to apart, and merged by their lse.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrl_tok.types import Leaf

# A score that is not seen, and the least maximum of those that are. Finite, as inf - inf is NaN; and so far
# apart that exp(HIDDEN - LOWEST) is 0: a query that sees nothing gets o = 0 and lse = LOWEST.
HIDDEN = -1e30
LOWEST = -5e29


class Prefix(NamedTuple):
    """Keys and values of tokens that all rows of a group see before their own: P groups of B / P rows."""

    k: Leaf  # [P, S, K, H]
    v: Leaf  # [P, S, K, H]
    mask: Leaf  # bool[P, S], the tokens that are there; padding may be anywhere


class Rows(NamedTuple):
    """The mask of rows without trees and prefixes, as it was asked for: what kernels of others take."""

    causal: bool
    window: int | None
    segments: Leaf  # i32[B, T], or None


class Options(NamedTuple):
    """The static half of an attention problem."""

    scale: float
    soft_cap: float | None = None
    block: tuple[int, int] | None = None  # queries, keys
    interpret: Any = False  # of Pallas kernels: False, True or InterpretParams


def accumulation(q: Array) -> np.dtype:
    """Returns the type of scores and sums: float64 for float64 inputs, float32 for all others."""
    return np.dtype(np.float64 if q.dtype == np.float64 else np.float32)


def capped(s: Float[Array, "*S"], soft_cap: float | None) -> tuple[Float[Array, "*S"], Float[Array, "*S"] | None]:
    """Returns cap(s), and its slope where there is a cap."""
    if soft_cap is None:
        return s, None
    u = jnp.tanh(s / soft_cap)
    return soft_cap * u, 1 - u * u


def heads_apart(q: Float[Array, "B T N H"], kv_heads: int) -> Float[Array, "B T K M H"]:
    """Gives each query head to the key/value head that it reads: head n reads n // (N / K)."""
    return q.reshape(*q.shape[:2], kv_heads, -1, q.shape[-1])


def pad(x: Array, axis: int, multiple: int, value: int = 0) -> Array:
    """Pads an axis at its end to a multiple."""
    missing = -x.shape[axis] % multiple
    if not missing:
        return x
    return jax.lax.pad(x, x.dtype.type(value), [(0, missing if i == axis else 0, 0) for i in range(x.ndim)])
