"""Clipped surrogate without a few tokens whose covariance is high."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses.ppo_clip import ppo_clip
from jaxrl_tok.scores import token_covariance


def clip_cov(
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    prepared: Bool[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T"]:
    """Clipped policy-gradient surrogate, 0 with its gradient on a few tokens drawn for their high covariance.

        loss[b,t] = 0 if dropped[b,t] else -w min(rho A, clip(rho, low, high) A),   rho = exp(log_ratio)
        candidates: cov_low < cov[b,t] < cov_high and not clipped already, cov = (A - mean A) (log p - mean log p)
        dropped: the K = max(floor(fraction N), 1) of them with the highest priority, N = the batch's trained tokens

    Clip-Cov, Cui et al. 2025, https://arxiv.org/abs/2505.22617, as in verl. The priorities are uniform random
    numbers, so the draw is. Dropped tokens stay in the denominator. The defaults are the paper's; its 32B script
    leaves the ratio between 0 and 2. Means, N and the draw are over the whole minibatch, where verl takes those of a
    microbatch. Who calls `prepare` inside `shard_map` names the axis.

    Raises:
        ConfigError: `fraction` is not in [0, 1].

    Fidelity: code.
    Degenerate: without a candidate, as at cov_low = inf, it is `ppo_clip`.
    """
    kept = mask & ~prepared
    return ppo_clip(log_ratio, low, high, advantages, token_weights, kept)


def prepare(
    logprobs: Float[Array, "B T"],
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    priority: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    fraction: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    axis_name: str | None = None,
) -> Bool[Array, "B T"]:
    """Marks the tokens that are dropped, over the whole minibatch."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"clip_cov: fraction = {fraction!r} must lie in [0, 1]")
    covariance = token_covariance(logprobs, advantages, mask, axis_name=axis_name)
    ratio = jnp.exp(jnp.where(mask, log_ratio, 0))
    clipped = jnp.where(advantages > 0, ratio > high, ratio < low) & (advantages != 0)
    candidates = mask & (covariance > cov_low) & (covariance < cov_high) & ~clipped
    n = masked.count(mask, ratio, axis_name=axis_name)
    k = jnp.maximum(jnp.floor(fraction * n), 1).astype(jnp.int32)
    dropped = masked.largest(priority.reshape(1, -1), candidates.reshape(1, -1), k[None], axis_name=axis_name)
    return dropped.reshape(mask.shape)
