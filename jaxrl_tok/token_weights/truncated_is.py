"""Importance weights of tokens against the sampler's mismatch, truncated."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def truncated_is(
    old_logprobs: Float[Array, "P G T"],
    sampler_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    low: float = 0.0,
    high: float = 2.0,
    normalize: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Importance weight of each token from the sampler's to the old policy's distribution, truncated.

        w[p,g,t] = clip(exp(clip(old_logprobs - sampler_logprobs, +-20)), low, high)

    Truncated importance sampling against the mismatch of sampler and trainer, "On the rollout-training mismatch in
    modern RL systems", Yao et al. 2025; truncation as in IMPALA, https://arxiv.org/abs/1802.01561. The cap of 2 is
    verl's. `normalize` divides by the mean weight of the batch's tokens, after truncation, as verl's option does:
    of the whole batch under `jit` on a mesh, inside `shard_map` of the shard, or with `axis_name` of all shards.
    The weight multiplies the clipped loss of its token and no KL term. `sequence_is` weighs whole completions,
    `icepop` drops what this truncates.

    Raises:
        ConfigError: not 0 <= low <= high.

    Fidelity: code.
    Degenerate: a sampler that agrees with the trainer, or low = high = 1, is `uniform`.
    """
    if not 0 <= low <= high:
        raise ConfigError(f"truncated_is: low = {low!r} and high = {high!r} must satisfy 0 <= low <= high")
    ratio = jnp.exp(jnp.clip(jnp.where(mask, old_logprobs - sampler_logprobs, 0), -20, 20))
    weights = jnp.where(mask, jnp.clip(ratio, low, high), 0)
    if normalize:
        mean = masked.mean(weights, mask, axis_name=axis_name)
        weights = weights / jnp.where(mean > 0, mean, 1)
    return jax.lax.stop_gradient(weights)
