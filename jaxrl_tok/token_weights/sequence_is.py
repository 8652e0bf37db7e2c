"""Importance weights of completions against the sampler's mismatch, truncated or dropped."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def sequence_is(
    old_logprobs: Float[Array, "P G T"],
    sampler_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    mode: Literal["truncate", "mask"] = "truncate",
    low: float = 0.0,
    high: float = 2.0,
    normalize: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Importance weight of each completion from the sampler's to the old policy's distribution, on all its tokens.

        k[p,g] = exp(clip(sum_t (old_logprobs - sampler_logprobs)[p,g,t], +-20))
        w[p,g,t] = clip(k, low, high)               "truncate"
        w[p,g,t] = k if low <= k <= high else 0     "mask"

    The sequence level of verl's rollout correction, HybridFlow, https://arxiv.org/abs/2409.19256, with its cap of
    2; TRL's default is "mask" with `high = 3`. `normalize` divides by the mean weight of the batch's completions,
    after truncation, as verl's option does; one without a trained token is none of them. The batch is the whole one
    under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards. Dropped completions stay in
    the denominator.

    Raises:
        ConfigError: not 0 <= low <= high.

    Fidelity: code.
    Degenerate: a sampler that agrees with the trainer is `uniform`; completions of one token make it `truncated_is`.
    """
    if not 0 <= low <= high:
        raise ConfigError(f"sequence_is: low = {low!r} and high = {high!r} must satisfy 0 <= low <= high")
    log_ratio = masked.total(old_logprobs - sampler_logprobs, mask, axis=2)[:, :, 0]
    ratio, trained = jnp.exp(jnp.clip(log_ratio, -20, 20)), jnp.any(mask, axis=2)
    inside = (low <= ratio) & (ratio <= high)
    weights = jnp.clip(ratio, low, high) if mode == "truncate" else jnp.where(inside, ratio, 0)
    if normalize:
        mean = masked.mean(weights, trained, axis_name=axis_name)
        weights = weights / jnp.where(mean > 0, mean, 1)
    return jax.lax.stop_gradient(masked.per_token(weights, mask))
