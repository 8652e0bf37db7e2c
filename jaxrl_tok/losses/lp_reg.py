"""Clipped surrogate that protects improbable tokens which are no noise."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses.ppo_clip import ppo_clip
from jaxrl_tok.scores import kl_estimate


def lp_reg(
    logprobs: Float[Array, "B T"],
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    proxy_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    prepared: Bool[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    coefficient: float = 1.0,
) -> Float[Array, "B T"]:
    """Clipped surrogate, on the least likely tokens of bad completions unclipped and drawn to a proxy, 0 where masked.

        loss[b,t] = -w rho A + coefficient k3(log p, log p_proxy)   if chosen[b,t] and log p < log p_proxy
                    -w min(rho A, clip(rho, low, high) A)            elsewhere,   rho = exp(log_ratio)
        chosen: the floor(fraction N) trained tokens with A < 0 that have the lowest log p, N = how many have A < 0

    Lp-Reg, https://arxiv.org/abs/2510.03222. The proxy is the policy after min-p filtering (0.02 of the highest
    probability) and renormalising, that of the old policy in the authors' scripts. A token that the filter removes
    has a log-prob far below its own, or -inf, and is never drawn; for the others the condition nearly always holds.
    k3 is bounded by 10, where its gradient ends. As in the code nothing is chosen where floor(fraction N) is 1 or
    less. The on-policy scripts leave the ratio between 0 and 10. The choice is over the whole minibatch, where the
    code takes that of a microbatch.

    Raises:
        ConfigError: `fraction` is not in [0, 1].

    Fidelity: code.
    Degenerate: fraction = 0 is `ppo_clip`.
    """
    logprobs = jnp.where(mask, logprobs, 0)
    drawn = mask & prepared & (jax.lax.stop_gradient(logprobs) < proxy_logprobs)
    clipped = ppo_clip(log_ratio, low, high, advantages, token_weights, mask)
    ratio = jnp.exp(jnp.where(drawn, log_ratio, 0))
    free = -ratio * jnp.where(drawn, advantages, 0) * jnp.where(drawn, token_weights, 0)
    # Where nothing is drawn the proxy is the log-prob itself, so that -inf reaches no gradient.
    proxy = jnp.where(drawn, proxy_logprobs, jax.lax.stop_gradient(logprobs))
    penalty = kl_estimate(logprobs, proxy, estimator="k3", clamp=True)
    return jnp.where(drawn, free + coefficient * penalty, clipped)


def prepare(
    logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    fraction: float = 0.01,
    axis_name: str | None = None,
) -> Bool[Array, "B T"]:
    """Marks the least likely tokens of negative advantage, over the whole minibatch."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"lp_reg: fraction = {fraction!r} must lie in [0, 1]")
    bad = mask & (advantages < 0)
    k = jnp.floor(fraction * masked.count(bad, logprobs, axis_name=axis_name)).astype(jnp.int32)
    k = jnp.where(k > 1, k, 0)
    return masked.largest(-logprobs.reshape(1, -1), bad.reshape(1, -1), k[None], axis_name=axis_name).reshape(
        mask.shape
    )
