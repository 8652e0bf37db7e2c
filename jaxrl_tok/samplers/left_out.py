"""What a run never draws, applied to logits."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok.samplers.bad_tokens import bad_tokens
from jaxrl_tok.samplers.min_tokens import min_tokens
from jaxrl_tok.types import LeftOut


def left_out(logits: Float[Array, "B V"], positions: Int[Array, " B"], left: LeftOut | None) -> Float[Array, "B V"]:
    """Makes the logits of what is left out -inf: `bad_tokens`, and before the minimum `min_tokens`.

    `positions` counts the tokens of the whole completion so far. With None it computes nothing.

    Raises:
        ConfigError: an id is not in the vocabulary, or no token would be left.
    """
    if left is None:
        return logits
    if left.ids:
        logits = bad_tokens(logits, ids=left.ids)
    if left.minimum:
        logits = min_tokens(logits, positions, jnp.full_like(positions, left.minimum), end_ids=left.end_ids)
    return logits
