"""Divergences between two models' next-token distributions, from hidden states and heads, without logits.

p[n] = softmax(z[n]) is the policy's distribution, r[n] that of the reference: an older policy, or a teacher.
z is that of `token_score`.
"""

import math
from collections.abc import Collection
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import compat
from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.kernels.dispatch import choose
from jaxrl_tok.kernels.divergence.common import DIVERGENCES, Pair, PairOptions, Side, Terms
from jaxrl_tok.kernels.divergence.vjp import BACKENDS, diverge_rows, normalised
from jaxrl_tok.kernels.token_score.arguments import accumulation_dtype, check_rows, options_of
from jaxrl_tok.kernels.token_score.common import Layout, Options
from jaxrl_tok.types import Leaf, pytree


@pytree
class Divergences:
    """The divergences that were asked for, in nats where they have a unit; 0 where a row is not valid, else None."""

    kl_policy_ref: Leaf = None  # f32[...], KL(p | r) = sum_v p_v log(p_v / r_v)
    kl_ref_policy: Leaf = None  # f32[...], KL(r | p)
    squared_hellinger: Leaf = None  # f32[...], 1/2 sum_v (sqrt p_v - sqrt r_v)^2, in [0, 1]
    jsd: Leaf = None  # f32[...], (1 - beta) KL(p | m) + beta KL(r | m), m = (1 - beta) p + beta r
    total_variation: Leaf = None  # f32[...], 1/2 sum_v |p_v - r_v|, in [0, 1]


def divergence(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    ref_hidden: Float[Array, "*rows R"],
    ref_head: Float[Array, "_ _"],
    valid: Bool[Array, "*rows"] | None = None,
    lse: Float[Array, "*rows"] | None = None,
    ref_lse: Float[Array, "*rows"] | None = None,
    *,
    kinds: Collection[str] = ("kl_policy_ref",),
    beta: float = 0.5,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    ref_soft_cap: float | int | Literal["same"] | None = "same",
    head_layout: Layout | None = None,
    ref_head_layout: Layout | None = None,
    vocab_axis: str | None = None,
    fsdp_axis: str | None = None,
    vocabulary: int | None = None,
    head_grad: bool = True,
    backend: str = "auto",
    block: int | None = None,
) -> Divergences:
    """Returns how far the policy's distributions are from the reference's, over the whole vocabulary.

    Differentiable once, in hidden and head; the reference is a constant. Each is a sum of terms that are not negative,
    taken once both normalisers are known. Types are those of `token_score`. `jsd` is that of Agarwal et al. 2023,
    https://arxiv.org/abs/2306.13649, but for their beta = 0 and 1, which mean the two KL divergences.

    Args:
        hidden: the policy's last hidden states.
        head: its head, [D, V] or [V, D].
        ref_hidden: those of the reference; its width may differ.
        ref_head: its head, over the same vocabulary.
        valid: which rows count; the others may hold anything, NaN too, and give 0 and no gradient. All by default.
        lse: `token_score(...).lse` of the policy; by default one more pass computes it, closer for large logits.
        ref_lse: the same of the reference.
        kinds: the fields of the result to compute.
        beta: weight of the reference in the mixture m of `jsd`, between 0 and 1.
        inv_temperature: 1 / temperature of both, broadcast to the rows. No gradient.
        soft_cap: see `token_score`, as for all that follow.
        ref_soft_cap: that of the reference.
        head_layout: "dv" or "vd".
        ref_head_layout: that of the reference.
        vocab_axis: the mesh axis that V is split over, in both heads.
        fsdp_axis: the mesh axis that D is split over, in both heads.
        vocabulary: V of padded heads.
        head_grad: whether the head gets a gradient.
        backend: "chunked", "reference" or "auto".
        block: columns held at a time.

    Raises:
        ConfigError: as `token_score`; and an unknown kind, beta not inside (0, 1), or heads of different V.
    """
    shared = {"vocab_axis": vocab_axis, "fsdp_axis": fsdp_axis, "vocabulary": vocabulary, "block": block}
    policy = options_of(hidden, head, soft_cap=soft_cap, head_layout=head_layout, head_grad=head_grad, **shared)
    cap = soft_cap if ref_soft_cap == "same" else ref_soft_cap
    ref = options_of(ref_hidden, ref_head, soft_cap=cap, head_layout=ref_head_layout, name="ref_head", **shared)
    options = PairOptions(policy, ref, _checked(kinds, beta), float(beta))
    return _diverge(options, (hidden, ref_hidden), (head, ref_head), valid, (lse, ref_lse), inv_temperature, backend)


def _checked(kinds: Collection[str], beta: float) -> tuple[str, ...]:
    """Returns the kinds in the order of the result's fields."""
    if isinstance(kinds, str) or not kinds:
        raise ConfigError(f"kinds is {kinds!r}; expected one or more of {', '.join(DIVERGENCES)}, as in ('jsd',)")
    for kind in kinds:
        if kind not in DIVERGENCES:
            raise ConfigError(f"unknown divergence {kind!r}; {nearest(kind, DIVERGENCES)}")
    if "jsd" in kinds and not 0 < beta < 1:
        raise ConfigError(f"beta is {beta}; expected a number between 0 and 1: the limits are the KL kinds")
    return tuple(kind for kind in DIVERGENCES if kind in kinds)


def _diverge(
    options: PairOptions,
    hiddens: tuple[Array, Array],
    heads: tuple[Array, Array],
    valid: Array | None,
    lses: tuple[Array | None, Array | None],
    inv_temperature: float | int | Array,
    backend: str,
) -> Divergences:
    """Flattens the rows, keeps the invalid ones out of the arithmetic, and runs both phases."""
    columns = [x.shape[one.columns] for x, one in zip(heads, (options.policy, options.ref), strict=True)]
    if columns[0] != columns[1]:
        raise ConfigError(f"ref_head has {columns[1]} columns; expected {columns[0]}, as in head")
    shape = hiddens[0].shape[:-1]
    check_rows(hiddens[1], shape, "the policy's")
    dtype = accumulation_dtype(*hiddens, *heads)
    heads = heads[0], jax.lax.stop_gradient(heads[1])
    counted = jnp.ones(shape, bool).reshape(-1) if valid is None else valid.reshape(-1)
    factor = jnp.broadcast_to(jax.lax.stop_gradient(jnp.asarray(inv_temperature).astype(dtype)), shape).reshape(-1)
    factor = jnp.where(counted, factor, 1)
    hidden, ref_hidden = (jnp.where(counted[:, None], x.reshape(-1, x.shape[-1]), 0) for x in hiddens)
    lses_flat = [None if x is None else jnp.where(counted, x.astype(dtype).reshape(-1), 0) for x in lses]
    chosen = _choose(backend, options, hidden, factor, ref_hidden, heads)
    policy = _side(options.policy, chosen, hidden, factor, heads[0], lses_flat[0])
    ref = _side(options.ref, chosen, jax.lax.stop_gradient(ref_hidden), factor, heads[1], lses_flat[1])
    shards = frozenset() if options.policy.vocab_axis is None else frozenset({options.policy.vocab_axis})
    sums = diverge_rows(options, chosen, *compat.vary_together((Pair(policy, ref), *heads), shards))
    return _shown(sums, counted, shape, options)


def _side(options: Options, backend: str, hidden: Array, factor: Array, head: Array, lse: Array | None) -> Side:
    """Returns one model's half of the tokens; its normaliser is a constant, as the gradient's form accounts for it."""
    if lse is not None:
        lse = jax.lax.stop_gradient(lse)
        return Side(hidden, factor, lse, jnp.zeros_like(lse))
    plain = options._replace(head_grad=False)
    return normalised(plain, backend, *jax.lax.stop_gradient((hidden, factor, head)))._replace(hidden=hidden)


def _choose(
    backend: str, options: PairOptions, hidden: Array, factor: Array, ref_hidden: Array, heads: tuple[Array, Array]
) -> str:
    pair = Pair(Side(hidden, factor, factor, factor), Side(ref_hidden, factor, factor, factor))
    return choose(backend, {name: one.obstacle(pair, *heads, options) for name, one in BACKENDS.items()})


def _shown(sums: Terms, counted: Array, shape: tuple[int, ...], options: PairOptions) -> Divergences:
    """Returns the divergences within their bounds, which rounding may pass from below."""
    beta = options.beta
    entropy = -(beta * math.log(beta) + (1 - beta) * math.log1p(-beta)) if 0 < beta < 1 else 0.0
    most = {"squared_hellinger": 1.0, "total_variation": 1.0, "jsd": entropy}
    found = {kind: getattr(sums, kind) for kind in options.kinds}
    for kind in most.keys() & found.keys():
        # Exact, as the two are close, and leaves the gradient alone.
        found[kind] = found[kind] - jax.lax.stop_gradient(jnp.maximum(found[kind] - most[kind], 0))
    return Divergences(**{kind: jnp.where(counted, x, 0).reshape(shape) for kind, x in found.items()})
