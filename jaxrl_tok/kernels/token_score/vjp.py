"""The one differentiation rule of token scoring, whichever backend does the sums."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrl_tok.kernels.token_score import chunked, reference
from jaxrl_tok.kernels.token_score.common import Coefficients, Options, Rows, Sums


class Backend(NamedTuple):
    """The two functions of a backend, as `common` describes them."""

    forward: Callable[[Rows, Array, Options], Sums]
    backward: Callable[[Rows, Array, Coefficients, Options], tuple[Array, Array | None]]


# Best first; both run everywhere.
BACKENDS = {
    "chunked": Backend(chunked.forward, chunked.backward),
    "reference": Backend(reference.forward, reference.backward),
}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _score(options: Options, backend: str, rows: Rows, head: Array) -> tuple[Array, Array, Array]:
    """Returns (logprobs, entropy, lse) of each row, over its kept tokens."""
    return _finish(BACKENDS[backend].forward(rows, head, options), head.shape[options.vocab_axis])


def _score_forward(options: Options, backend: str, rows: Rows, head: Array) -> tuple:
    sums = BACKENDS[backend].forward(rows, head, options)
    results = _finish(sums, head.shape[options.vocab_axis])
    _, entropy, _ = results
    # The two parts of lse, not lse: next to a large common offset their sum has lost log_sum's last digits.
    return results, (rows, head, sums.max_logit, _log_sum(sums), entropy)


def _score_backward(options: Options, backend: str, residuals: tuple, cotangents: tuple) -> tuple:
    rows, head, max_logit, log_sum, entropy = residuals
    g_logprobs, g_entropy, g_lse = cotangents
    coefficients = Coefficients(
        max_logit=max_logit,
        log_sum=log_sum,
        constant=g_lse - g_logprobs - g_entropy * entropy,
        slope=-g_entropy,
        target=g_logprobs,
    )
    d_hidden, d_head = BACKENDS[backend].backward(rows, head, coefficients, options)
    return Rows(hidden=d_hidden, targets=None, inv_temperature=None, cut=None), d_head


_score.defvjp(_score_forward, _score_backward)

# Compiled as one even where the caller does not: a scan run op by op is compiled anew at every call.
score_rows = jax.jit(_score, static_argnums=(0, 1))


def _finish(sums: Sums, vocabulary: int) -> tuple[Array, Array, Array]:
    """Returns (logprobs, entropy, lse); the bounds hold before rounding, and are made to hold after it."""
    log_sum = _log_sum(sums)
    logprobs = jnp.minimum(sums.target_logit - sums.max_logit, 0) - log_sum
    entropy = log_sum - sums.sum_exp_shifted / sums.sum_exp
    most = _round_down(math.log(vocabulary), entropy.dtype)
    return logprobs, jnp.clip(entropy, 0, most), sums.max_logit + log_sum


def _log_sum(sums: Sums) -> Array:
    """Returns lse - max_logit; the largest logit alone contributes 1."""
    return jnp.log(jnp.maximum(sums.sum_exp, 1))


def _round_down(x: float, dtype: np.dtype) -> np.floating:
    """Returns the largest number of a type that is not above x."""
    rounded = dtype.type(x)
    return np.nextafter(rounded, dtype.type(0)) if float(rounded) > x else rounded
