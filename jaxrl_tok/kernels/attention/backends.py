"""The backends of `attention`: which can run, in which order, and how each reads the one form of a problem."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.kernels.attention import block_sizes, cudnn, pallas_tpu, reference, shared_prefix, splash, xla
from jaxrl_tok.kernels.attention.common import Options
from jaxrl_tok.kernels.attention.spans import Spans, seen
from jaxrl_tok.kernels.attention.vjp import flash
from jaxrl_tok.types import Leaf


class Problem(NamedTuple):
    """An attention problem: checked, and free of what padding held."""

    q: Leaf  # [B, T, N, H]
    k: Leaf  # [B, T, K, H]
    v: Leaf  # [B, T, K, H]
    spans: Spans  # of B rows, or of one where all are the same
    valid: Leaf  # bool[B, T], the tokens that are no padding; None if all are
    prefix: Leaf  # Prefix or None
    prefix_spans: Leaf  # Spans or None, for the queries of a group together, [P, B / P * T]
    rows: Leaf  # Rows, or None for trees and prefixes
    options: Options
    platform: str


def candidates(problem: Problem) -> dict[str, str | None]:
    """Returns every backend, best first, with the reason why it cannot run here."""
    q, prefix, platform, rows = problem.q, problem.prefix, problem.platform, problem.rows
    if rows is None:
        splash_obstacle = cudnn_obstacle = "it takes rows without trees and prefixes"
    else:
        splash_obstacle = splash.obstacle(platform, q)
        cudnn_obstacle = cudnn.obstacle(platform, q, rows.segments is not None, problem.options)
    no_prefix = "it takes no prefix; shared_prefix, xla and reference do" if prefix is not None else None
    native = {
        "splash": splash_obstacle,
        "cudnn": cudnn_obstacle,
        "pallas_tpu": no_prefix or pallas_tpu.obstacle(platform, q),
    }
    streaming = {"shared_prefix": "there is no prefix" if prefix is None else None, "chunked": no_prefix}
    scores = q.shape[0] * q.shape[2] * q.shape[1] * (q.shape[1] + (0 if prefix is None else prefix.k.shape[1]))
    if scores <= block_sizes.DENSE_SCORES:
        return {**native, "xla": None, **streaming, "reference": None}
    return {**native, **streaming, "xla": None, "reference": None}


def run(backend: str, problem: Problem) -> Float[Array, "B T N H"]:
    """Returns the result of one backend, 0 at padding."""
    o = _RUN[backend](problem)
    return o if problem.valid is None else jnp.where(problem.valid[:, :, None, None], o, 0)


def _spans_of_all(problem: Problem) -> Spans:
    rows = len(problem.q)
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (rows, x.shape[1])), problem.spans)


def _mask(problem: Problem) -> Bool[Array, "B T T"]:
    size = problem.q.shape[1]
    return seen(problem.spans, jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), problem.spans.start.shape))


def _prefix_mask(problem: Problem) -> Bool[Array, "P Q S"]:
    spans = problem.prefix_spans
    if spans.limit is None:
        return problem.prefix.mask[:, None]
    return seen(spans, jnp.zeros_like(spans.positions))


def _run_reference(problem: Problem) -> Array:
    k, v, mask = problem.k, problem.v, _mask(problem)
    mask = jnp.broadcast_to(mask, (len(k), *mask.shape[1:]))
    if problem.prefix is not None:
        shared = problem.prefix._replace(mask=_prefix_mask(problem))
        size, group = k.shape[1], len(k) // len(shared.k)
        before = jnp.broadcast_to(shared.mask, (len(shared.k), group * size, shared.mask.shape[2]))
        mask = jnp.concatenate([before.reshape(len(k), size, -1), mask], axis=2)
        k, v = (jnp.concatenate([jnp.repeat(x, group, axis=0), y], axis=1) for x, y in ((shared.k, k), (shared.v, v)))
    return reference.attend(problem.q, k, v, mask, problem.options)


def _run_xla(problem: Problem) -> Array:
    parts = [xla.Part(problem.k, problem.v, _mask(problem))]
    if problem.prefix is not None:
        parts.append(xla.Part(problem.prefix.k, problem.prefix.v, _prefix_mask(problem)))
    return xla.attend(problem.q, parts, problem.options)


def _chunked_options(problem: Problem) -> Options:
    blocks = block_sizes.CHUNKED
    block = problem.options.block or blocks.get(problem.platform, blocks["others"])
    return problem.options._replace(block=block)


def _run_pallas_tpu(problem: Problem) -> Array:
    return flash("pallas_tpu", problem.options, problem.q, problem.k, problem.v, _spans_of_all(problem))[0]


def _run_chunked(problem: Problem) -> Array:
    return flash("chunked", _chunked_options(problem), problem.q, problem.k, problem.v, _spans_of_all(problem))[0]


def _run_shared_prefix(problem: Problem) -> Array:
    if pallas_tpu.obstacle(problem.platform, problem.q):
        base, options = "chunked", _chunked_options(problem)
    else:
        base, options = "pallas_tpu", problem.options
    own = (problem.k, problem.v, _spans_of_all(problem))
    return shared_prefix.attend(problem.q, own, (*problem.prefix[:2], problem.prefix_spans), options, base)


def _run_splash(problem: Problem) -> Array:
    return splash.attend(problem.q, problem.k, problem.v, problem.rows, problem.options)


def _run_cudnn(problem: Problem) -> Array:
    return cudnn.attend(problem.q, problem.k, problem.v, problem.rows, problem.options)


_RUN: dict[str, Callable[[Problem], Array]] = {
    "splash": _run_splash,
    "cudnn": _run_cudnn,
    "pallas_tpu": _run_pallas_tpu,
    "shared_prefix": _run_shared_prefix,
    "chunked": _run_chunked,
    "xla": _run_xla,
    "reference": _run_reference,
}
