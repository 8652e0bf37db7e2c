"""Unclipped surrogate with a penalty on the tokens whose covariance is highest."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import token_covariance


def kl_cov(
    log_ratio: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    prepared: Bool[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    coefficient: float = 1.0,
) -> Float[Array, "B T"]:
    """Unclipped policy-gradient surrogate, plus the distance from the old policy on a few tokens, 0 where masked.

        loss[b,t] = -w rho A + (coefficient |log rho| if penalised[b,t] else 0),   rho = exp(log_ratio)
        penalised: the K = max(floor(fraction N), 1) tokens with the largest (A - mean A) (log p - mean log p)

    KL-Cov, Cui et al. 2025, https://arxiv.org/abs/2505.22617, as in verl; N is the number of the batch's trained
    tokens. The authors' `k_percent = 0.2` is 0.2 percent, `fraction = 0.002`. At the old policy the penalty has no
    gradient, so it acts from the second update of a rollout batch on. Of equal covariances the first in the order
    of the arrays are taken. Means, N and the choice are over the whole minibatch, where verl takes those of a
    microbatch. The clip slot is not read.

    Raises:
        ConfigError: `fraction` is not in [0, 1].

    Fidelity: code.
    Degenerate: coefficient = 0 is `ppo_clip` with bounds 0 and inf.
    """
    log_ratio, advantages = jnp.where(mask, log_ratio, 0), jnp.where(mask, advantages, 0)
    surrogate = -jnp.exp(log_ratio) * advantages * jnp.where(mask, token_weights, 0)
    # Not at 0, where JAX differentiates |x| as 1.
    penalised = mask & prepared & (log_ratio != 0)
    return surrogate + jnp.where(penalised, coefficient * jnp.abs(log_ratio), 0)


def prepare(
    logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    fraction: float = 2e-4,
    axis_name: str | None = None,
) -> Bool[Array, "B T"]:
    """Marks the tokens that are penalised, over the whole minibatch."""
    if not 0 <= fraction <= 1:
        raise ConfigError(f"kl_cov: fraction = {fraction!r} must lie in [0, 1]")
    covariance = token_covariance(logprobs, advantages, mask, axis_name=axis_name)
    n = masked.count(mask, covariance, axis_name=axis_name)
    k = jnp.maximum(jnp.floor(fraction * n), 1).astype(jnp.int32)
    chosen = masked.largest(covariance.reshape(1, -1), mask.reshape(1, -1), k[None], axis_name=axis_name)
    return chosen.reshape(mask.shape)
