"""Tokens that are never drawn."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers.token_mask import token_mask


def bad_tokens(logits: Float[Array, "B V"], *, ids: tuple[int, ...] = ()) -> Float[Array, "B V"]:
    """Makes the logits of some tokens -inf; no ids change nothing.

        z[b, v] = -inf if v in ids, else logits[b, v]

    Raises:
        ConfigError: an id is not in the vocabulary, or no token would be left.
    """
    mask = token_mask(ids, logits.shape[-1], "bad_tokens: ids")
    if mask.all():
        raise ConfigError(f"bad_tokens: ids name all {mask.size} tokens; leave one that can be drawn")
    return jnp.where(mask[None], -jnp.inf, logits)
