"""Ratio of each segment: a sentence, a step, an item of a list."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import segment_mean


def segment(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    segment_ids: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    gradient: Literal["token", "mean"] = "token",
    items: int | None = None,
) -> Float[Array, "B T"]:
    """Log-ratio of the current to the old policy for the token's segment, per token of it.

        log s[b,t] = min(mean of logprobs[b,u] - old_logprobs[b,u] over the segment of t, 10)

    SSPO, https://arxiv.org/abs/2511.04256, with (sub)sentences as segments; Rank-GRPO,
    https://arxiv.org/abs/2510.20150, with the items of a list, where `items = N` makes one segment of all that
    comes after the N-th. `gradient` is as in `sequence`: Rank-GRPO's code differentiates the mean, and so needs
    `"mean"`. The bound of 10 nats is GSPO's; Rank-GRPO's code has none. A trained token outside every segment has
    its own ratio. Ids are below T. 0 where masked.

    Raises:
        ConfigError: `items` is below 1.

    Fidelity: code. As Rank-GRPO's items; SSPO's length normalisation is read off a description of it.
    Degenerate: one segment gives `sequence`, one token a segment gives `token`, but for its bounds.
    """
    if items is not None and items < 1:
        raise ConfigError(f"segment: items = {items!r} must be at least 1")
    difference = jnp.where(mask, logprobs, 0) - jnp.where(mask, old_logprobs, 0)
    mean = segment_mean(difference, segment_ids, mask, items=items)
    if gradient == "token":
        mean = jax.lax.stop_gradient(mean) + difference - jax.lax.stop_gradient(difference)
    return jnp.where(mask, jnp.minimum(mean, 10), 0)
