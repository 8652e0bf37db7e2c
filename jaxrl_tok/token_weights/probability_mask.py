"""Train on the tokens at which the policy was not nearly certain."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def probability_mask(
    old_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    multiplicity: Float[Array, "P G T"] | None = None,
    *,
    threshold: float = 0.9,
    renormalize: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Weight 1 on the tokens whose probability was below the threshold, 0 on the rest.

        w[p,g,t] = 1 / multiplicity[p,g,t] if exp(old_logprobs[p,g,t]) < threshold else 0

    SPO, Guo et al. 2025, https://arxiv.org/abs/2505.23564, with 0.9, where it goes with the segments that end at
    such tokens (`spo_chain`). Their code takes the other tokens out of the loss and so divides by the kept ones:
    `renormalize` does that, by scaling the weights to mean 1 over the batch; without it the weights stay in the
    denominator. The probability is the old policy's, not the sampler's. A probability equal to the threshold gives
    0. In a tree of rollouts a token that several completions share counts once, as a segment is one sample there
    (`per_node`); elsewhere the multiplicity is 1.

    Raises:
        ConfigError: `threshold` is not positive.

    Fidelity: code.
    Degenerate: threshold > 1 is `uniform`.
    """
    if threshold <= 0:
        raise ConfigError(f"probability_mask: threshold = {threshold!r} must be above 0, or no token trains")
    kept = mask & (old_logprobs < math.log(threshold))
    weights = kept.astype(old_logprobs.dtype)
    if multiplicity is not None:
        sharers = jnp.maximum(jnp.where(kept, multiplicity, 1), 1)
        weights = jax.lax.stop_gradient(jnp.where(kept, 1 / sharers, 0))
    if renormalize:
        n, kept_total = (
            masked.count(mask, weights, axis_name=axis_name),
            masked.total(weights, kept, axis_name=axis_name),
        )
        weights = weights * n / jnp.where(kept_total > 0, kept_total, 1)
    return weights
