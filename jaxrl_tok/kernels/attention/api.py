"""Attention of rows of tokens: causal, packed, windowed, capped, over trees, and over a prefix that rows share."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import device
from jaxrl_tok.kernels.attention.backends import Problem, candidates, run
from jaxrl_tok.kernels.attention.common import Options, Prefix, Rows
from jaxrl_tok.kernels.attention.spans import Spans, prefix_spans, row_spans, tree_spans
from jaxrl_tok.kernels.dispatch import choose


def attention(
    q: Float[Array, "B T N H"],
    k: Float[Array, "B U K H"],
    v: Float[Array, "B U K H"],
    *,
    causal: bool = True,
    segments: Int[Array, "B T"] | None = None,
    ends: Int[Array, "B T"] | None = None,
    positions: Int[Array, "B T"] | None = None,
    prefix: Prefix | None = None,
    window: int | None = None,
    soft_cap: float | int | None = None,
    scale: float | None = None,
    backend: str = "auto",
    block: tuple[int, int] | None = None,
) -> Float[Array, "B T N H"]:
    """Returns, for each token and head, the mean of the values that it sees, weighted by a softmax of scores.

        s[b, n, t, u] = cap(scale * q[b, t, n] . k[b, u, n // (N / K)]),   cap(x) = c tanh(x / c), or x
        o[b, t, n] = sum_{u seen by t} softmax_u(s[b, n, t, u]) v[b, u, n // (N / K)]

    A token t of a row sees its token u

        causal:    iff u <= t
        segments:  iff both lie in one run of equal ids (and u <= t, if causal)
        ends:      iff u <= t < ends[u]: u is t or a token before it on its path; ids of tries fall out of `ends`
        window w:  only if t - u < w; in a tree, positions[t] - positions[u] < w

    and all of its group's prefix, whose last token comes just before the row's first. The layout is that of
    `jax.nn.dot_product_attention`, with the head count of k and v a divisor of q's. Scores and sums are float32
    (float64 for float64 inputs), results have the type of q; differentiable once in q, k, v and the prefix.

    Padding is a token with a negative segment id, with `ends` not above its index, or outside the prefix's mask:
    nothing sees it, it sees nothing, its result and gradients are 0, and it may hold anything, NaN too. The shared
    prefix is that of Hydragen, Juravsky et al. 2024, https://arxiv.org/abs/2402.05099; the streaming softmax that
    of FlashAttention-2, Dao 2023, https://arxiv.org/abs/2307.08691.

    Args:
        q: queries, already rotated.
        k: keys, already rotated.
        v: values.
        causal: `False` lets tokens see later ones; not with `ends` or `window`.
        segments: ids of packed sequences; a run of equal ids is one, and negative is padding.
        ends: of packed tries in depth-first order, from `tree_from_parents` or `star_tree`; not with `segments`.
        positions: of tokens in their path; needed for a window in a tree, and read for nothing else.
        prefix: a prefix of each group of B / P rows; row b belongs to group b // (B / P).
        window: tokens that a token sees, itself included.
        soft_cap: c of the cap on scores.
        scale: 1 / sqrt(H) by default.
        backend: "auto" takes splash on TPU and cuDNN on GPU for rows, "pallas_tpu" on TPU and "chunked" elsewhere
            for trees, "shared_prefix" for a prefix, and "xla" where scores are few; "reference" is the definition.
        block: queries and keys held at a time; by default a measured size. "xla" and "reference" ignore it.

    Raises:
        ConfigError: a backend that is unknown or cannot run, shapes that do not fit, or masks that exclude each other.
    """
    _check(q, k, v, prefix, (ends, positions), (causal, segments, window), (soft_cap, block))
    options = Options(q.shape[-1] ** -0.5 if scale is None else float(scale), soft_cap, block)
    problem = prepare(q, k, v, options, causal, segments, (ends, positions), prefix, window)
    return run(choose(backend, candidates(problem)), problem)


def prepare(
    q: Array,
    k: Array,
    v: Array,
    options: Options,
    causal: bool = True,
    segments: Array | None = None,
    tree: tuple[Array | None, Array | None] = (None, None),
    prefix: Prefix | None = None,
    window: int | None = None,
) -> Problem:
    """Returns the problem as backends read it: masks as spans, padding emptied of what it held."""
    q, k, v, segments, tree, prefix = compat.vary_together((q, k, v, segments, tree, prefix))
    ends, positions = tree
    if ends is None:
        spans, valid = row_spans(1 if segments is None else len(q), q.shape[1], causal, segments, window)
    else:
        spans, valid = tree_spans(ends, positions, window)
    q, k, v = emptied((q, k, v), valid)
    if prefix is None:
        at_prefix = None
    else:
        prefix_k, prefix_v = emptied(prefix[:2], prefix.mask)
        prefix = Prefix(prefix_k, prefix_v, prefix.mask)
        at_prefix = _prefix_spans(prefix, q, positions, window)
    rows = Rows(causal, window, segments) if ends is None and prefix is None else None
    return Problem(q, k, v, spans, valid, prefix, at_prefix, rows, options, device.target().platform)


def emptied(arrays: tuple[Array, ...], valid: Bool[Array, "B T"] | None) -> tuple[Array, ...]:
    """Returns arrays [B, T, ...] with 0 for what padding held: 0 * NaN is NaN, and hidden is not the same as 0."""
    return arrays if valid is None else tuple(jnp.where(valid[:, :, None, None], x, 0) for x in arrays)


def _prefix_spans(prefix: Prefix, q: Array, positions: Array | None, window: int | None) -> Spans:
    rows, size = q.shape[:2]
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (rows, size))
    together = positions.astype(jnp.int32).reshape(len(prefix.mask), -1)
    return prefix_spans(prefix.mask, together.shape[1], together, window)


def _check(
    q: Array,
    k: Array,
    v: Array,
    prefix: Prefix | None,
    tree: tuple[Array | None, Array | None],
    masks: tuple[bool, Array | None, int | None],
    sizes: tuple[float | int | None, tuple[int, int] | None],
) -> None:
    """Refuses what does not fit together."""
    (ends, positions), (causal, segments, window), (soft_cap, block) = tree, masks, sizes
    if k.shape != v.shape or k.shape[:2] != q.shape[:2] or k.shape[3] != q.shape[3]:
        raise ConfigError(f"k is {k.shape} and v {v.shape} for q {q.shape}; expected [B, T, K, H] for [B, T, N, H]")
    if q.shape[2] % k.shape[2]:
        raise ConfigError(f"q has {q.shape[2]} heads for {k.shape[2]} of k; expected a multiple")
    if ends is not None and (segments is not None or not causal):
        raise ConfigError(
            "ends are given with segments, or with causal=False; tries are causal and hold their own ends"
        )
    if window is not None and (window < 1 or not causal):
        raise ConfigError(f"window is {window}, causal {causal}; expected a positive window over causal attention")
    if window is not None and ends is not None and positions is None:
        raise ConfigError("a window in a tree needs positions: indices of a packed row do not count a path's tokens")
    if soft_cap is not None and not soft_cap > 0:
        raise ConfigError(f"soft_cap is {soft_cap}; expected a positive number, or None for no cap")
    if block is not None and not (len(block) == 2 and min(block) >= 1):
        raise ConfigError(f"block is {block}; expected two positive numbers, of queries and keys")
    if prefix is not None and (len(q) % max(1, len(prefix.k)) or prefix.k.shape[2:] != k.shape[2:]):
        raise ConfigError(
            f"the prefix's k is {prefix.k.shape} for k {k.shape}; expected [P, S, K, H], P a divisor of B"
        )
