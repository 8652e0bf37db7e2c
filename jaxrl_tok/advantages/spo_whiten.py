"""Whitening over the tokens at which the policy was not nearly certain."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def spo_whiten(
    advantages: Float[Array, "P G T"],
    old_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    multiplicity: Float[Array, "P G T"] | None = None,
    *,
    threshold: float = 0.9,
    skip_zero: bool = False,
    eps: float = 1e-8,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Advantages shifted and scaled by the mean and spread of those of the uncertain tokens.

        y = (A - mean A) / sqrt(var A + eps)  over the tokens with exp(old_logprobs) < threshold

    SPO, Guo et al. 2025, https://arxiv.org/abs/2505.23564, after `spo_chain` or `spo_tree`; the variance divides by n
    - 1. The other trained tokens are shifted and scaled too, and taken out of the loss by `probability_mask`. With no
    uncertain token in the batch the statistics are those of all. `skip_zero`: tokens whose advantage is exactly 0 are
    no samples and stay 0, as in SPO-tree's code, which drops such segments before it whitens. A token that several
    completions of a tree share counts once: it has the weight 1 / multiplicity in all sums. The batch is the whole one
    under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards.

    Raises:
        ConfigError: `threshold` is not positive.

    Fidelity: code.
    Degenerate: where all advantages are equal, 0; threshold > 1 is `whiten`.
    """
    if threshold <= 0:
        raise ConfigError(f"spo_whiten: threshold = {threshold!r} must be above 0")
    mask = mask if valid is None else mask & valid[:, :, None]
    mask = mask & (advantages != 0) if skip_zero else mask
    uncertain = mask & (old_logprobs < math.log(threshold))
    some = masked.count(uncertain, advantages, axis_name=axis_name) > 0
    sample = jnp.where(some, uncertain, mask)
    low, high = masked.bounds(jax.lax.stop_gradient(advantages), mask, axis_name=axis_name)
    share = jnp.ones_like(advantages)
    if multiplicity is not None:
        share = 1 / jnp.maximum(jnp.where(sample, multiplicity, 1), 1)
    n = masked.total(share, sample, axis_name=axis_name)
    mean = masked.total(share * jnp.where(sample, advantages, 0), sample, axis_name=axis_name) / jnp.where(n > 0, n, 1)
    variance = masked.total(share * (jnp.where(sample, advantages, 0) - mean) ** 2, sample, axis_name=axis_name)
    scale = jax.lax.rsqrt(variance / jnp.maximum(n - 1, 1) + eps)
    return jnp.where(mask & (low < high), (jnp.where(mask, advantages, 0) - mean) * scale, 0)
