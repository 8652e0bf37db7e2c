"""How log-probs and advantages vary together over a batch."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def token_covariance(
    logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    axis_name: str | None = None,
) -> Float[Array, "B T"]:
    """Each token's share of the covariance of log-probs and advantages over the batch.

        cov[b,t] = (A[b,t] - mean A) (log p[b,t] - mean log p)

    Cui et al. 2025, https://arxiv.org/abs/2505.22617, where a large one is what makes the entropy fall. Means are
    over the trained tokens: of the whole batch under `jit` on a mesh; inside `shard_map` of the shard, or with
    `axis_name` of all shards. 0 where masked.
    """
    logprobs, advantages = jnp.where(mask, logprobs, 0), jnp.where(mask, advantages, 0)
    centred = [x - masked.mean(x, mask, axis_name=axis_name) for x in (logprobs, advantages)]
    return jnp.where(mask, centred[0] * centred[1], 0)
