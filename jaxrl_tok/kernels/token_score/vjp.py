"""The one differentiation rule of token scoring, whichever backend does the sums."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxrl_tok import compat
from jaxrl_tok.kernels.token_score import chunked, pallas_gpu, pallas_tpu, parts, reference
from jaxrl_tok.kernels.token_score.common import Coefficients, Options, Rows, Sums
from jaxrl_tok.kernels.token_score.statistics import COMPARED, finish, log_sum_of, others


def runs_everywhere(rows: Rows, head: Array, options: Options) -> str | None:
    """Returns why a backend cannot run on these arrays, here: for no reason."""
    return None


class Backend(NamedTuple):
    """The functions of a backend, as `common` describes them, and why it cannot run, None if it can."""

    forward: Callable[..., Sums]
    backward: Callable[..., tuple[Array, Array | None]] = chunked.backward
    obstacle: Callable[[Rows, Array, Options], str | None] = runs_everywhere


# Best first.
BACKENDS = {
    "pallas_tpu": Backend(pallas_tpu.forward, obstacle=pallas_tpu.obstacle),
    "chunked": Backend(chunked.forward),
    "reference": Backend(reference.forward, reference.backward),
    # By name alone: no measurement says that it is faster than `chunked`.
    "pallas_gpu": Backend(pallas_gpu.forward, obstacle=pallas_gpu.obstacle),
    "pallas_gpu_interpret": Backend(functools.partial(pallas_gpu.forward, interpret=True)),
    "pallas_tpu_interpret": Backend(functools.partial(pallas_tpu.forward, interpret=True)),
}

Results = tuple[Array, Array, Array, dict[str, Array]]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _score(options: Options, backend: str, rows: Rows, head: Array) -> Results:
    """Returns (logprobs, entropy, lse, statistics) of each row, over its kept tokens."""
    return _results(_sums(options, backend, rows, head), head, options)


def _sums(options: Options, backend: str, rows: Rows, head: Array) -> Sums:
    rows, head = compat.vary_together((rows, head))
    if rows.targets.ndim > 1:
        none = rows._replace(targets=jnp.full_like(rows.targets[:, 0], -1))
        sums = parts.forward(BACKENDS[backend].forward, none, head, options)
        return sums._replace(target_logit=parts.target_logits(rows, head, options))
    if any(name in COMPARED for name in options.extras):
        rows = rows._replace(pivot=parts.target_logits(rows, head, options))
        rows, head = compat.vary_together((rows, head))
    return parts.forward(BACKENDS[backend].forward, rows, head, options)


def _results(sums: Sums, head: Array, options: Options) -> Results:
    found = others(sums) if options.statistics else {}
    return *finish(sums, parts.vocabulary_of(head, options)), {name: found[name] for name in options.statistics}


def _score_forward(options: Options, backend: str, rows: Rows, head: Array) -> tuple:
    sums = _sums(options, backend, rows, head)
    results = _results(sums, head, options)
    # The two parts of lse, not lse: next to a large common offset their sum has lost log_sum's last digits.
    return results, (rows, head, sums.max_logit, log_sum_of(sums), results[1])


def _score_backward(options: Options, backend: str, residuals: tuple, cotangents: tuple) -> tuple:
    rows, head, max_logit, log_sum, entropy = residuals
    g_logprobs, g_entropy, g_lse, _ = cotangents
    of_row = g_logprobs if g_logprobs.ndim == 1 else jnp.sum(g_logprobs, axis=1)
    coefficients = Coefficients(
        max_logit=max_logit,
        log_sum=log_sum,
        constant=g_lse - of_row - g_entropy * entropy,
        slope=-g_entropy,
        target=g_logprobs,
    )
    varying = compat.vary_together((rows, head, coefficients))
    d_hidden, d_head = parts.backward(BACKENDS[backend].backward, *varying, options)
    d_hidden = parts.whole_gradient(d_hidden, rows.hidden, options)
    return Rows(hidden=d_hidden, targets=None, inv_temperature=None, cut=None), d_head


_score.defvjp(_score_forward, _score_backward)

# Compiled as one even where the caller does not: a scan run op by op is compiled anew at every call.
score_rows = jax.jit(_score, static_argnums=(0, 1))
