"""Where SPO-chain cuts a completion into segments."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def spo_cutpoints(
    old_logprobs: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    threshold: float = 0.9,
    interval: int = 5,
) -> Bool[Array, "P G T"]:
    """Marks the first tokens of segments: every `interval`-th of the tokens that were not nearly certain.

        low[t] = exp(old_logprobs[t]) < threshold
        starts[t] = low[t] and (number of low tokens before t) % interval = 0

    SPO, https://arxiv.org/abs/2505.23564. The first uncertain token starts the first segment. The state before a
    marked token is one whose value is to be estimated by rollouts; what stands before the first one belongs to no
    segment, and with all tokens certain there is none. Probabilities are the trainer's, recomputed. A threshold above
    1 gives segments of fixed length.

    Raises:
        ConfigError: `interval` is below 1 or `threshold` not positive.
    """
    if interval < 1:
        raise ConfigError(f"spo_cutpoints: interval = {interval!r} must be at least 1")
    if threshold <= 0:
        raise ConfigError(f"spo_cutpoints: threshold = {threshold!r} must be above 0, or there is no segment")
    low = mask & (old_logprobs < math.log(threshold))
    return low & ((jnp.cumsum(low, axis=2, dtype=jnp.int32) - 1) % interval == 0)
