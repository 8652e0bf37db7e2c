"""Importance weights of tokens against the sampler's mismatch; tokens that disagree too much are dropped."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def icepop(
    old_logprobs: Float[Array, "P G T"],
    sampler_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    low: float = 0.5,
    high: float = 5.0,
) -> Float[Array, "P G T"]:
    """Importance weight of each token from the sampler's to the old policy's distribution, 0 outside a band.

        w[p,g,t] = k if low <= k <= high else 0,  k = exp(clip(old_logprobs - sampler_logprobs, +-20))

    IcePop, of the Ring-1T report, https://arxiv.org/abs/2510.18855, with its band. Dropped tokens stay in the
    denominator. The weight multiplies the clipped loss of its token.

    Raises:
        ConfigError: not 0 <= low <= high.

    Fidelity: paper.
    Degenerate: a sampler that agrees with the trainer is `uniform`, with 1 inside the band.
    """
    if not 0 <= low <= high:
        raise ConfigError(f"icepop: low = {low!r} and high = {high!r} must satisfy 0 <= low <= high")
    ratio = jnp.exp(jnp.clip(jnp.where(mask, old_logprobs - sampler_logprobs, 0), -20, 20))
    return jax.lax.stop_gradient(jnp.where(mask & (low <= ratio) & (ratio <= high), ratio, 0))
