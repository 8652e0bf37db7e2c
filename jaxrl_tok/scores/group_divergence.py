"""How much the distributions of a group's completions differ, position by position."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def group_divergence(
    all_logprobs: Float[Array, "P G T V"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    as_released: bool = False,
) -> Float[Array, "P T"]:
    """Spread of the next-token distributions of a group's completions at each position.

        d[p,g,t,v] = clip(mean_g all_logprobs[p,g,t,v] - all_logprobs[p,g,t,v], +-11)
        K[p,t] = mean_g sum_v (exp(d) - d - 1)

    TW-GRPO, https://arxiv.org/abs/2505.24718. The mean is one of log-probs, no distribution, and the sum over the
    vocabulary is not weighted, so that this is no KL divergence. Means are over the completions that train the
    position; at most one gives 0. In the code a completion that does not is a uniform distribution and counts:
    `as_released`, over all valid completions. `all_logprobs` are those of the whole vocabulary, in nats.
    """
    present = jnp.broadcast_to(jnp.ones_like(mask[:, :, :1]) if valid is None else valid[:, :, None], mask.shape)
    logprobs = jnp.where(mask[..., None], all_logprobs, -math.log(all_logprobs.shape[3]))
    counted = (present if as_released else mask & present)[..., None]
    n = jnp.maximum(jnp.sum(counted, axis=1, keepdims=True, dtype=logprobs.dtype), 1)
    mean = jnp.sum(jnp.where(counted, logprobs, 0), axis=1, keepdims=True) / n
    difference = jnp.clip(mean - logprobs, -11, 11)
    spread = jnp.sum(jnp.expm1(difference) - difference, axis=3)
    return jnp.sum(jnp.where(counted[..., 0], spread, 0), axis=1) / n[:, 0, :, 0]
