"""What every backend of divergences takes and gives, and the arithmetic of one pair of logits.

Two phases: first the normaliser of each side, by the forward pass of token scoring; then, with

    log p_v = z_v - max_logit - log_sum, log r_v the same of the reference, and d_v = log p_v - log r_v,

sums over the vocabulary of terms that are never negative, so that a divergence of 1e-6 is not the difference of
two numbers of order one. A backend of the second phase is two functions, of which the second may be that of
`chunked`:

    forward(pair, head, ref_head, options, limit=None) -> Terms
    backward(pair, head, ref_head, weights, options, limit=None) -> (gradient of pair.hidden, of head or None)

The gradient by the policy's logits is p_v (h(d_v) - sum_u p_u h(d_u)) for every divergence, with h its derivative
by p_v. One number a token stands for all the sums, one a token and divergence for the cotangents:

    G[n, v] = constant[n] p_v + sum_kind weight[kind][n] p_v h_kind(d_v)
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxrl_tok.kernels.token_score.common import Options
from jaxrl_tok.types import Leaf

# Each divergence, and the fields of `Terms` that its value and its gradient take.
DIVERGENCES: dict[str, tuple[str, ...]] = {
    "kl_policy_ref": ("kl_policy_ref",),
    "kl_ref_policy": ("kl_ref_policy",),
    "squared_hellinger": ("squared_hellinger",),
    "jsd": ("jsd", "jsd_policy"),
    "total_variation": ("total_variation", "sign"),
}


class PairOptions(NamedTuple):
    """The static half of a problem."""

    policy: Options
    ref: Options
    kinds: tuple[str, ...]
    beta: float  # weight of the reference in the mixture of `jsd`, inside (0, 1)

    @property
    def terms(self) -> tuple[str, ...]:
        """Names of the fields of `Terms` that are asked for."""
        return tuple(term for kind in self.kinds for term in DIVERGENCES[kind])


class Side(NamedTuple):
    """One model's half of the tokens, one a row; float vectors are in the accumulation type."""

    hidden: Leaf  # [N, D], D may differ between the sides
    inv_temperature: Leaf  # [N]
    max_logit: Leaf  # [N]; max_logit + log_sum is the normaliser lse, kept apart as their sum loses digits
    log_sum: Leaf  # [N]


class Pair(NamedTuple):
    """The tokens of a problem."""

    policy: Side
    ref: Side


class Terms(NamedTuple):
    """Sums over the vocabulary, or over a part of it, for each row; parts add up. None unless asked for."""

    kl_policy_ref: Leaf = None  # [N], sum_v p_v log(p_v / r_v)
    kl_ref_policy: Leaf = None  # [N], sum_v r_v log(r_v / p_v)
    squared_hellinger: Leaf = None  # [N], 1/2 sum_v (sqrt p_v - sqrt r_v)^2
    jsd: Leaf = None  # [N], (1 - beta) KL(p | m) + beta KL(r | m), with m = (1 - beta) p + beta r
    jsd_policy: Leaf = None  # [N], KL(p | m)
    total_variation: Leaf = None  # [N], 1/2 sum_v |p_v - r_v|
    sign: Leaf = None  # [N], sum_v p_v sign(d_v)


class Weights(NamedTuple):
    """The numbers of the gradient by the logits, for each row (see the top of this module)."""

    constant: Leaf  # [N]
    of_kind: Mapping[str, Leaf]  # [N] each


def terms(
    logp: Float[Array, "*N C"],
    logr: Float[Array, "*N C"],
    names: tuple[str, ...],
    beta: float,
    expm1: Callable[[Array], Array] = jnp.expm1,
) -> dict[str, Float[Array, "*N C"]]:
    """Returns each term of the sums, for every pair of log-probs; all but `sign` are never negative.

    `expm1` is for kernels whose compiler has none.
    """
    d, p, r = logp - logr, jnp.exp(logp), jnp.exp(logr)
    larger, away = jnp.maximum(p, r), -jnp.abs(d)
    found: dict[str, Array] = {}
    if "kl_policy_ref" in names:
        found["kl_policy_ref"] = excess(p, r, d)
    if "kl_ref_policy" in names:
        found["kl_ref_policy"] = excess(r, p, -d)
    if "squared_hellinger" in names:
        found["squared_hellinger"] = larger * jnp.square(expm1(away / 2)) / 2
    if "jsd" in names or "jsd_policy" in names:
        mixture = (1 - beta) * p + beta * r
        policy = excess(p, mixture, over_mixture(d, beta, expm1))
        found["jsd_policy"] = policy
        found["jsd"] = (1 - beta) * policy + beta * excess(r, mixture, over_mixture(-d, 1 - beta, expm1))
    if "total_variation" in names:
        found["total_variation"] = -larger * expm1(away) / 2
    if "sign" in names:
        found["sign"] = p * jnp.sign(d)
    return {name: found[name] for name in names}


def slopes(
    logp: Float[Array, "N C"], logr: Float[Array, "N C"], kinds: tuple[str, ...], beta: float
) -> dict[str, Float[Array, "N C"]]:
    """Returns p_v h_kind(d_v) of each divergence, without what the constant of the row makes up for."""
    d, p, r = logp - logr, jnp.exp(logp), jnp.exp(logr)
    ways = {
        "kl_policy_ref": lambda: p * d,
        "kl_ref_policy": lambda: difference(p, r, d),
        "squared_hellinger": lambda: difference(p, jnp.exp((logp + logr) / 2), d / 2) / 2,
        "jsd": lambda: (1 - beta) * p * over_mixture(d, beta),
        "total_variation": lambda: p * jnp.sign(d) / 2,
    }
    return {kind: ways[kind]() for kind in kinds}


def weights_of(sums: Terms, cotangents: Mapping[str, Array], beta: float) -> Weights:
    """Returns the numbers of the gradient, from the sums and the cotangents of the divergences asked for."""
    means = {
        "kl_policy_ref": lambda: sums.kl_policy_ref,
        "kl_ref_policy": lambda: 0,
        "squared_hellinger": lambda: sums.squared_hellinger / 2,
        "jsd": lambda: (1 - beta) * sums.jsd_policy,
        "total_variation": lambda: sums.sign / 2,
    }
    return Weights(-sum(g * means[kind]() for kind, g in cotangents.items()), dict(cotangents))


def excess(p: Array, q: Array, d: Array) -> Array:
    """Returns p d + q - p for d = log(p / q), which sums to KL(p | q) and is never negative.

    Near d = 0, where the three terms cancel, it is p times the series of d + e^-d - 1.
    """
    order, small = (12 if d.dtype == np.float64 else 6), jnp.abs(d) < 0.1
    x = jnp.where(small, d, 0)
    series = jnp.zeros_like(x)
    for power in range(order, 2, -1):
        series = (1 - series) * x / power
    return jnp.where(small, p * (x * x / 2) * (1 - series), q + p * (d - 1))


def difference(p: Array, q: Array, d: Array) -> Array:
    """Returns p - q for d = log(p / q), without their cancelling."""
    return jnp.where(d < 0, q * jnp.expm1(jnp.minimum(d, 0)), -p * jnp.expm1(-jnp.maximum(d, 0)))


def over_mixture(d: Array, weight: float, expm1: Callable[[Array], Array] = jnp.expm1) -> Array:
    """Returns log(p / m) for m = (1 - weight) p + weight q and d = log(p / q)."""
    near = jnp.maximum(d, -1)
    far = jnp.logaddexp(jnp.full_like(d, math.log1p(-weight)), math.log(weight) - d)
    return jnp.where(d > -1, -jnp.log1p(weight * expm1(-near)), -far)
