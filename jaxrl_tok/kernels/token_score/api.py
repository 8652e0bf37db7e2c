"""Log-prob, entropy and normaliser of tokens, from hidden states and head, without their logits.

Throughout, z[n, v] = inv_temperature[n] * cap(hidden[n] . head[v]) with cap(x) = c tanh(x / c), or x without
a soft cap, and p[n] = softmax(z[n]).
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok import compat
from jaxrl_tok.kernels.dispatch import choose
from jaxrl_tok.kernels.token_score import parts
from jaxrl_tok.kernels.token_score.arguments import accumulation_dtype, check_rows, options_of
from jaxrl_tok.kernels.token_score.common import Layout, Options, Rows
from jaxrl_tok.kernels.token_score.vjp import BACKENDS, Results, score_rows
from jaxrl_tok.types import Leaf, pytree


@pytree
class TokenScores:
    """What one pass over the vocabulary tells of each token, in nats; 0 where the target is ignored.

    Fields after the first three are None unless asked for, and give no gradient.
    """

    logprobs: Leaf  # f32[...], log p[target]
    entropy: Leaf  # f32[...], H = -sum_v p_v log p_v
    lse: Leaf  # f32[...], log sum_v exp z_v
    max_logit: Leaf = None  # f32[...], max_v z_v
    argmax: Leaf = None  # i32[...], the first v with z_v = max_logit
    target_logit: Leaf = None  # f32[...], z[target], at the temperature
    sum_logits: Leaf = None  # f32[...], sum_v z_v; lse - sum_logits / V is the KL divergence from uniform to p, + log V
    sum_p2: Leaf = None  # f32[...], sum_v p_v^2
    sum_p2_logp: Leaf = None  # f32[...], sum_v p_v^2 log p_v
    varentropy: Leaf = None  # f32[...], sum_v p_v (log p_v + H)^2
    top2_gap: Leaf = None  # f32[...], the largest logit less the second largest; inf for a vocabulary of one
    rank: Leaf = None  # i32[...], 1 + the number of tokens with a larger logit than the target's
    mass_above: Leaf = None  # f32[...], the probability of those tokens


def token_score(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    targets: Int[Array, "*rows"],
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    vocab_axis: str | None = None,
    fsdp_axis: str | None = None,
    vocabulary: int | None = None,
    head_grad: bool = True,
    statistics: Collection[str] = ("logprobs",),
    backend: str = "auto",
    block: int | None = None,
) -> TokenScores:
    """Returns each target's log-prob, the entropy of its distribution, the normaliser, and what else is asked for.

        lse[n] = log sum_v exp z[n, v],  logprobs[n] = z[n, targets[n]] - lse[n],  entropy[n] = -sum_v p log p
        G[n, v] = p[n, v] (g_lse[n] - g_logprobs[n] - g_entropy[n] (log p[n, v] + entropy[n]))
                  + g_logprobs[n] 1[v = targets[n]]

    G is the gradient by the logits: differentiable once, in hidden and head, through these three.
    Sums and results are float32 whatever the inputs (float64 for float64 inputs); logprobs <= 0 and 0 <= entropy <=
    log V hold exactly. A negative target is ignored: its results are 0, it gives no gradient, and its hidden state,
    temperature and cotangents may be anything, NaN too. A target of V or more gives NaN. Streams as Cut Cross-Entropy
    does, Wijmans et al. 2024, https://arxiv.org/abs/2411.09009, without its filter of small gradients.

    Args:
        hidden: the model's last hidden states, after its final norm.
        head: [D, V] or [V, D]; an embedding that is tied to the head goes in as it is.
        targets: the tokens to score.
        inv_temperature: 1 / temperature, finite; broadcast to `targets`. No gradient.
        soft_cap: c of the cap on raw logits, applied before the temperature.
        head_layout: "dv" or "vd"; needed only for a square head.
        vocab_axis: inside `shard_map`, the mesh axis that the head's V is split over; hidden and targets lie whole.
        fsdp_axis: inside `shard_map`, the mesh axis that the head's D is split over; gathered a block at a time.
        vocabulary: V where the head is padded behind it, so as to divide over the shards.
        head_grad: `False` treats the head as a constant and saves a third of the backward pass.
        statistics: further fields of the result; each costs its own sums and nothing else.
        backend: "chunked", "reference" or "auto".
        block: columns of the vocabulary held at a time; by default a measured size. The reference ignores it.

    Raises:
        ConfigError: a backend that is unknown or cannot run, shapes that do not fit, an ambiguous layout.
    """
    check_rows(hidden, targets.shape)
    split = {"vocab_axis": vocab_axis, "fsdp_axis": fsdp_axis, "vocabulary": vocabulary}
    options = options_of(
        hidden,
        head,
        soft_cap=soft_cap,
        head_layout=head_layout,
        head_grad=head_grad,
        block=block,
        statistics=statistics,
        **split,
    )
    return score(hidden, head, targets, inv_temperature, None, options, backend)


def score_many(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    targets: Int[Array, "*rows K"],
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    vocab_axis: str | None = None,
    fsdp_axis: str | None = None,
    vocabulary: int | None = None,
    head_grad: bool = True,
    backend: str = "auto",
    block: int | None = None,
) -> TokenScores:
    """Returns the log-probs of several tokens under each distribution, its entropy and its normaliser.

        logprobs[n, k] = z[n, targets[n, k]] - lse[n]
        G[n, v] = p[n, v] (g_lse[n] - sum_k g_logprobs[n, k] - g_entropy[n] (log p[n, v] + entropy[n]))
                  + sum_k g_logprobs[n, k] 1[v = targets[n, k]]

    For the branches that leave a node of a tree, and for sets of candidates. One pass serves all K targets, which
    may repeat. A negative target is ignored: its log-prob is 0 and gives no gradient; a row of such alone has
    results of 0. A target's logit is a dot product of its own, K gathers of [N, D] in turn, so log-probs may
    differ from those of `token_score` by rounding. Where few of many rows have a second target, repeating those
    rows in `token_score` is cheaper.

    Args:
        hidden: the model's last hidden states, after its final norm.
        head: [D, V] or [V, D].
        targets: the tokens to score, the last axis over those of one row.
        inv_temperature: 1 / temperature, finite; broadcast to the rows. No gradient.
        soft_cap: see `token_score`, as for all that follow.
        head_layout: "dv" or "vd".
        vocab_axis: the mesh axis that V is split over.
        fsdp_axis: the mesh axis that D is split over.
        vocabulary: V of a padded head.
        head_grad: whether the head gets a gradient.
        backend: the backend's name.
        block: columns held at a time.

    Raises:
        ConfigError: as `token_score`.
    """
    check_rows(hidden, targets.shape[:-1], "the rows of targets")
    split = {"vocab_axis": vocab_axis, "fsdp_axis": fsdp_axis, "vocabulary": vocabulary}
    options = options_of(
        hidden, head, soft_cap=soft_cap, head_layout=head_layout, head_grad=head_grad, block=block, **split
    )
    return score(hidden, head, targets, inv_temperature, None, options, backend, many=True)


def kept_logprobs(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    targets: Int[Array, "*rows"],
    thresholds: Float[Array, "*rows"],
    lse: Float[Array, "*rows"] | None = None,
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    vocab_axis: str | None = None,
    fsdp_axis: str | None = None,
    vocabulary: int | None = None,
    head_grad: bool = True,
    backend: str = "auto",
    block: int | None = None,
) -> Float[Array, "*rows"]:
    """Returns each target's log-prob among the tokens that a filter (top-k, top-p, min-p) kept.

        kept[n] = {v : z[n, v] - lse[n] >= thresholds[n]} and targets[n]
        logprob[n] = z[n, targets[n]] - log sum_{v in kept[n]} exp z[n, v]
        G[n, v] = g[n] (1[v = targets[n]] - p_kept[n, v])

    A threshold is a log-prob at the temperature 1 / inv_temperature, before filtering; for min-p, max_logit - lse +
    log min_p. Another program rounds logits otherwise, so it is best laid halfway between the last kept token and the
    first dropped one. The kept set is constant under differentiation; thresholds and lse get no gradient. +inf keeps
    the target alone and gives 0. -inf keeps all and gives the `logprobs` of `token_score`, to the bit where that too
    is compiled for its log-probs alone. Ignored targets, bounds and types are those of `token_score`.

    Args:
        hidden: the model's last hidden states, after its final norm.
        head: [D, V] or [V, D].
        targets: the tokens to score.
        thresholds: the least log-prob kept.
        lse: `token_score(...).lse` for the same arguments; by default one more pass computes it.
        inv_temperature: 1 / temperature, which must be the one of `thresholds`.
        soft_cap: see `token_score`, as for all that follow.
        head_layout: "dv" or "vd".
        vocab_axis: the mesh axis that V is split over.
        fsdp_axis: the mesh axis that D is split over.
        vocabulary: V of a padded head.
        head_grad: whether the head gets a gradient.
        backend: the backend's name.
        block: columns held at a time.

    Raises:
        ConfigError: as `token_score`.
    """
    check_rows(hidden, targets.shape)
    split = {"vocab_axis": vocab_axis, "fsdp_axis": fsdp_axis, "vocabulary": vocabulary}
    options = options_of(
        hidden, head, soft_cap=soft_cap, head_layout=head_layout, head_grad=head_grad, block=block, **split
    )
    fixed = jax.lax.stop_gradient((hidden, head))
    all_lse = score(*fixed, targets, inv_temperature, None, options, backend).lse if lse is None else lse
    dtype = accumulation_dtype(hidden, head)
    cut = jax.lax.stop_gradient(thresholds.astype(dtype) + all_lse.astype(dtype))
    return score(hidden, head, targets, inv_temperature, cut, options, backend).logprobs


def score(
    hidden: Array,
    head: Array,
    targets: Array,
    inv_temperature: float | int | Array,
    cut: Array | None,
    options: Options,
    backend: str,
    many: bool = False,
) -> TokenScores:
    """Scores over the kept tokens, and shows what is ignored as 0 and what is unknown as NaN."""
    vocabulary, shape = parts.vocabulary_of(head, options), targets.shape
    dtype = accumulation_dtype(hidden, head)
    inv_temperature = jax.lax.stop_gradient(jnp.asarray(inv_temperature).astype(dtype))
    targets = targets.reshape(-1, shape[-1]) if many else targets.reshape(-1)
    valid = targets >= 0
    valid_row = jnp.any(valid, axis=1) if many else valid
    leading = shape[:-1] if many else shape
    rows = Rows(
        hidden=jnp.where(valid_row[:, None], hidden.reshape(-1, hidden.shape[-1]), 0),
        targets=jnp.clip(targets, -1 if many else 0, vocabulary).astype(jnp.int32),
        inv_temperature=jnp.where(valid_row, jnp.broadcast_to(inv_temperature, leading).reshape(-1), 1),
        cut=None if cut is None else jnp.where(valid, cut.reshape(-1), -jnp.inf),
    )
    logprobs, entropy, lse, rest = run(options, backend, rows, head)
    known = targets < vocabulary
    known_row = jnp.all(known, axis=1) if many else known

    def shown(x: Array, valid: Array, known: Array, shape: tuple[int, ...]) -> Array:
        unknown = jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else -1
        return jnp.where(valid, jnp.where(known, x, unknown), 0).reshape(shape)

    of_row = {"entropy": entropy, "lse": lse, **rest}
    return TokenScores(
        logprobs=shown(logprobs, valid, known, shape),
        **{name: shown(x, valid_row, known_row, leading) for name, x in of_row.items()},
    )


def run(options: Options, backend: str, rows: Rows, head: Array) -> Results:
    """Chooses the backend and scores with it."""
    chosen = choose(backend, {name: one.obstacle(rows, head, options) for name, one in BACKENDS.items()})
    shards = frozenset() if options.vocab_axis is None else {options.vocab_axis}
    return score_rows(options, chosen, *compat.vary_together((rows, head), frozenset(shards)))
