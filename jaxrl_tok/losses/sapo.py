"""Surrogate with a soft gate in place of a clip."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def sapo(
    log_ratio: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    tau_positive: float = 1.0,
    tau_negative: float = 1.05,
) -> Float[Array, "B T"]:
    """Policy-gradient surrogate that a sigmoid of the ratio fades out on both sides, 0 where masked.

        loss[b,t] = -w A (4 / tau) sigmoid(tau (rho - 1)),   rho = exp(log_ratio)
        tau = tau_positive where A > 0, tau_negative elsewhere

    SAPO, https://arxiv.org/abs/2511.20347, as in verl, averaged by `sequence_mean_token_mean`. The weight of the
    gradient, 4 s (1 - s) rho with the sigmoid s, is 1 at the old policy. The loss there is -2 w A / tau, so it
    does not compare with PPO's. The clip slot is not read.

    Raises:
        ConfigError: a tau is not positive.

    Fidelity: code.
    Degenerate: at the old policy the gradient is that of `ppo_clip`; tau -> 0 is the unclipped surrogate's.
    """
    if not (tau_positive > 0 and tau_negative > 0):
        raise ConfigError(f"sapo: tau_positive = {tau_positive!r} and tau_negative = {tau_negative!r} must be positive")
    ratio = jnp.exp(jnp.where(mask, log_ratio, 0))
    advantages = jnp.where(mask, advantages, 0)
    tau = jnp.where(advantages > 0, tau_positive, tau_negative)
    gate = 4 / tau * jax.nn.sigmoid(tau * (ratio - 1))
    return -jnp.where(mask, token_weights, 0) * advantages * gate
