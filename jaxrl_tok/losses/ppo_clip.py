"""Clipped surrogate."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def ppo_clip(
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    dual_clip: float | None = None,
) -> Float[Array, "B T"]:
    """Clipped policy-gradient surrogate, negated so that lower is better, 0 where masked.

        loss[b,t] = -w min(rho A, clip(rho, low, high) A),   rho = exp(log_ratio)
        with a dual clip c, where A < 0: at most -w c A

    PPO, eq. 7 of Schulman et al. 2017, https://arxiv.org/abs/1707.06347; the dual clip is Ye et al. 2019,
    https://arxiv.org/abs/1912.09729 (c = 3 there and in verl, which always applies it; 10 in Archer, DCPO and STARE;
    off here, as in the other libraries; TRL calls it `delta`). Where a rule picks the tokens it is `functional_anchor`,
    `clip_cov` or `lp_reg`. Gradients flow through `log_ratio` only, as the other arrays are constants of the step.

    Raises:
        ConfigError: `dual_clip` is not above 1, where it would cut the trust region itself.

    Fidelity: code.
    Degenerate: bounds of 0 and inf give the unclipped surrogate -w rho A.
    """
    if dual_clip is not None and not dual_clip > 1:
        raise ConfigError(f"ppo_clip: dual_clip = {dual_clip!r} must be above 1")
    ratio = jnp.exp(jnp.where(mask, log_ratio, 0))
    advantages = jnp.where(mask, advantages, 0)
    clipped = jnp.clip(ratio, jnp.where(mask, low, 1), jnp.where(mask, high, 1))
    loss = -jnp.minimum(ratio * advantages, clipped * advantages)
    if dual_clip is not None:
        loss = jnp.where(advantages < 0, jnp.minimum(loss, -dual_clip * advantages), loss)
    return loss * jnp.where(mask, token_weights, 0)
