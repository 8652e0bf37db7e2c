"""What `token_score` and `divergence` give, from logits that are there already: for a model that gives nothing else.

Plain softmaxes: several arrays of tokens x vocabulary in float32, where the functions with a head hold one block.
z[n, v] = inv_temperature[n] * cap(logits[n, v]), and p[n] = softmax(z[n]).
"""

import math
from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.kernels.divergence.api import Divergences
from jaxrl_tok.kernels.divergence.common import DIVERGENCES, terms
from jaxrl_tok.kernels.token_score.api import TokenScores
from jaxrl_tok.kernels.token_score.arguments import accumulation_dtype
from jaxrl_tok.kernels.token_score.common import NEG
from jaxrl_tok.kernels.token_score.statistics import round_down

STATISTICS = ("max_logit", "target_logit", "sum_logits", "sum_p2")


def logit_score(
    logits: Float[Array, "*rows V"],
    targets: Int[Array, "*rows"],
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    statistics: Collection[str] = (),
) -> TokenScores:
    """Returns each target's log-prob, the entropy of its distribution, the normaliser, and what else is asked for.

    Types, bounds, ignored rows and gradients are those of `token_score`: a negative target gives 0 and no gradient,
    whatever its logits hold; one of V or more gives NaN.

    Args:
      logits: raw ones, before the cap and the temperature.
      targets: the tokens to score.
      inv_temperature: 1 / temperature, broadcast to `targets`. No gradient.
      soft_cap: c of the cap c tanh(x / c).
      statistics: among "max_logit", "target_logit", "sum_logits", "sum_p2"; without gradient.

    Raises:
      ConfigError: an unknown statistic.
    """
    for name in statistics:
        if name not in (*STATISTICS, "logprobs"):
            raise ConfigError(f"unknown statistic {name!r}; {nearest(name, STATISTICS)}")
    valid = targets >= 0
    z = _tempered(logits, valid, inv_temperature, soft_cap)
    max_logit, log_sum, logp = _normalised(z)
    p = jnp.exp(logp)
    entropy = -jnp.sum(p * logp, axis=-1)
    most = round_down(math.log(z.shape[-1]), entropy.dtype)
    # The bound holds but for rounding, which has no gradient.
    entropy = entropy - jax.lax.stop_gradient(jnp.maximum(entropy - most, 0))
    ways = {
        "max_logit": lambda: max_logit,
        "target_logit": lambda: _chosen(z, targets),
        "sum_logits": lambda: jnp.sum(z, axis=-1),
        "sum_p2": lambda: jnp.sum(p * p, axis=-1),
    }
    found = {name: jax.lax.stop_gradient(way()) for name, way in ways.items() if name in statistics}
    known = targets < z.shape[-1]

    def shown(x: Array) -> Array:
        return jnp.where(valid, jnp.where(known, x, jnp.nan), 0)

    parts = {"logprobs": _chosen(logp, targets), "entropy": entropy, "lse": max_logit + log_sum, **found}
    return TokenScores(**{name: shown(x) for name, x in parts.items()})


def kept_logit_score(
    logits: Float[Array, "*rows V"],
    targets: Int[Array, "*rows"],
    thresholds: Float[Array, "*rows"],
    lse: Float[Array, "*rows"],
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
) -> Float[Array, "*rows"]:
    """Returns each target's log-prob among the tokens that a filter kept; see `kernels.kept_logprobs`."""
    valid = targets >= 0
    z = _tempered(logits, valid, inv_temperature, soft_cap)
    cut = jax.lax.stop_gradient(jnp.where(valid, thresholds.astype(z.dtype) + lse.astype(z.dtype), -jnp.inf))
    is_target = jax.lax.broadcasted_iota(targets.dtype, z.shape, z.ndim - 1) == targets[..., None]
    kept = (z >= cut[..., None]) | is_target
    _, _, logp = _normalised(jnp.where(kept, z, NEG))
    return jnp.where(valid, jnp.where(targets < z.shape[-1], _chosen(logp, targets), jnp.nan), 0)


def logit_divergence(
    logits: Float[Array, "*rows V"],
    ref_logits: Float[Array, "*rows V"],
    valid: Bool[Array, "*rows"],
    *,
    kinds: tuple[str, ...],
    beta: float = 0.5,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
) -> Divergences:
    """Returns how far the policy's distributions are from the reference's; see `kernels.divergence`. No gradient."""
    pair = jax.lax.stop_gradient((logits, ref_logits))
    logp, logr = (_normalised(_tempered(x, valid, inv_temperature, soft_cap))[2] for x in pair)
    names = tuple(DIVERGENCES[kind][0] for kind in kinds)
    found = terms(logp, logr, names, beta)
    return Divergences(**{kind: jnp.where(valid, jnp.sum(found[kind], axis=-1), 0) for kind in kinds})


def _tempered(
    logits: Array, valid: Array, inv_temperature: float | int | Array, soft_cap: float | int | None
) -> Float[Array, "*rows V"]:
    """Returns z, 0 for rows that do not count, and finite where a model rules a token out by -inf."""
    dtype = accumulation_dtype(logits)
    factor = jax.lax.stop_gradient(jnp.broadcast_to(jnp.asarray(inv_temperature).astype(dtype), valid.shape))
    z = jnp.where(valid[..., None], logits, 0).astype(dtype)
    if soft_cap is not None:
        z = soft_cap * jnp.tanh(z / soft_cap)
    return jnp.maximum(z * jnp.where(valid, factor, 1)[..., None], NEG)


def _normalised(z: Float[Array, "*rows V"]) -> tuple[Array, Array, Array]:
    """Returns max_v z_v, the log of the sum relative to it, and log p."""
    max_logit = jax.lax.stop_gradient(jnp.max(z, axis=-1))
    shifted = z - max_logit[..., None]
    log_sum = jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))
    return max_logit, log_sum, shifted - log_sum[..., None]


def _chosen(x: Float[Array, "*rows V"], targets: Array) -> Array:
    inside = jnp.clip(targets, 0, x.shape[-1] - 1)
    return jnp.take_along_axis(x, inside[..., None], axis=-1)[..., 0]
