"""No end before a least number of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers.token_mask import token_mask


def min_tokens(
    logits: Float[Array, "B V"],
    positions: Int[Array, " B"],
    minimum: Int[Array, " B"],
    *,
    end_ids: tuple[int, ...] = (),
) -> Float[Array, "B V"]:
    """Makes the logits of the end tokens -inf until a row has its least number of other ones.

        z[b, v] = -inf if v in end_ids and positions[b] < minimum[b], else logits[b, v]

    `positions` counts the row's tokens so far: 0 when the first is drawn. So a completion has at least `minimum`
    tokens before its end token. A minimum of 0 changes nothing.

    Raises:
        ConfigError: an id is not in the vocabulary, or no token would be left.
    """
    mask = token_mask(end_ids, logits.shape[-1], "min_tokens: end_ids")
    if mask.all():
        raise ConfigError(f"min_tokens: end_ids name all {mask.size} tokens; leave one that can be drawn")
    return jnp.where((positions < minimum)[:, None] & mask[None], -jnp.inf, logits)
