"""The one differentiation rule of the flash backends, whichever does the sums."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrl_tok.kernels.attention import chunked, pallas_tpu
from jaxrl_tok.kernels.attention.common import Options, accumulation
from jaxrl_tok.kernels.attention.spans import Spans


class Backend(NamedTuple):
    """The two functions of a flash backend, as `common` describes them."""

    forward: Callable[..., tuple[Array, Array]]
    backward: Callable[..., tuple[Array, Array, Array]]


BACKENDS = {
    "chunked": Backend(chunked.forward, chunked.backward),
    "pallas_tpu": Backend(pallas_tpu.forward, pallas_tpu.backward),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _flash(backend: str, options: Options, q: Array, k: Array, v: Array, spans: Spans) -> tuple[Array, Array]:
    return BACKENDS[backend].forward(q, k, v, spans, options)


def _flash_forward(backend: str, options: Options, q: Array, k: Array, v: Array, spans: Spans) -> tuple:
    o, lse = BACKENDS[backend].forward(q, k, v, spans, options)
    return (o, lse), (q, k, v, spans, o, lse)


def _flash_backward(backend: str, options: Options, residuals: tuple, cotangents: tuple) -> tuple:
    q, k, v, spans, o, lse = residuals
    d_o, d_lse = cotangents
    dtype = accumulation(q)
    delta = jnp.sum(d_o.astype(dtype) * o.astype(dtype), axis=-1) - d_lse
    d_q, d_k, d_v = BACKENDS[backend].backward(q, k, v, spans, lse, delta, d_o, options)
    return d_q, d_k, d_v, jax.tree.map(lambda _: None, spans)


_flash.defvjp(_flash_forward, _flash_backward)

# flash(backend, options, q [B, T, N, H], k, v [B, U, K, H], spans) -> (o [B, T, N, H], lse [B, T, N]). Compiled as
# one even where the caller does not: a loop run op by op is compiled anew at every call.
flash = jax.jit(_flash, static_argnums=(0, 1))
