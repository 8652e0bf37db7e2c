"""Train only on tokens or completions about which sampler and trainer agree."""

import math
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import kl_estimate


def mismatch_mask(
    old_logprobs: Float[Array, "P G T"],
    sampler_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    level: Literal["token", "sequence_sum", "sequence_mean", "sequence_max"] = "token",
    estimator: Literal["k1", "k2", "k3"] = "k1",
    low: float = 0.5,
    high: float = 2.0,
    as_released: bool = False,
) -> Float[Array, "P G T"]:
    """Weight 1 on what sampler and old policy agree about, 0 on the rest, by the token or by the completion.

        d[p,g,t] = clip(old_logprobs - sampler_logprobs, +-20)
        k1 = d        k2 = d^2 / 2        k3 = exp(d) - 1 - d
        m = k of the token, or its sum, mean or maximum over the completion
        w[p,g,t] = 1 if log low <= m <= log high   (k1)
        w[p,g,t] = 1 if m <= high                  (k2, k3; `low` is not used)

    The rejection masks (MIS) of verl's rollout correction, HybridFlow, https://arxiv.org/abs/2409.19256. With k1
    the bounds are on the probability ratio of old policy over sampler, of the token, of the completion
    ("sequence_sum") or in geometric mean ("sequence_mean"). verl's code compares -d instead of d, so that there the
    bounds act on sampler over trainer and 0.5 to 5 keeps ratios from 0.2 to 2: `as_released` does the same. With
    reciprocal bounds it is no matter. In verl the mask replaces that of the loss and leaves its denominators; a
    weight of 0 stays in them.

    Raises:
        ConfigError: for k1 not 0 < low <= high, for the others `high` negative.

    Fidelity: code.
    Degenerate: a sampler that agrees with the trainer is `uniform`, with low <= 1 <= high.
    """
    if (estimator == "k1" and not 0 < low <= high) or high < 0:
        raise ConfigError(
            f"mismatch_mask: low = {low!r} and high = {high!r} must satisfy 0 < low <= high (k1) or 0 <= high"
        )
    difference = jnp.clip(jnp.where(mask, old_logprobs - sampler_logprobs, 0), -20, 20)
    if estimator == "k1":
        measure = -difference if as_released else difference
    else:
        measure = kl_estimate(jnp.zeros_like(difference), difference, estimator=estimator)
    measure = jnp.broadcast_to(_over_completion(measure, mask, level), mask.shape)
    inside = measure <= high
    if estimator == "k1":
        inside = (math.log(low) <= measure) & (measure <= math.log(high))
    return (mask & inside).astype(difference.dtype)


def _over_completion(measure: Float[Array, "P G T"], mask: Bool[Array, "P G T"], level: str) -> Array:
    if level == "token":
        return measure
    if level == "sequence_sum":
        return masked.total(measure, mask, axis=2)
    return masked.mean(measure, mask, axis=2) if level == "sequence_mean" else masked.bounds(measure, mask, axis=2)[1]
