"""A number added to the logits of some tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.samplers.token_mask import token_mask


def token_bias(
    logits: Float[Array, "B V"], bias: Float[Array, " B"], *, ids: tuple[int, ...] = ()
) -> Float[Array, "B V"]:
    """Adds a row's bias to the logits of some tokens.

        z[b, v] = logits[b, v] + bias[b] if v in ids, else logits[b, v]

    It multiplies their odds against every other token by exp(bias). No ids or a bias of 0 change nothing.

    Raises:
        ConfigError: an id is not in the vocabulary.
    """
    mask = token_mask(ids, logits.shape[-1], "token_bias: ids")
    return jnp.where(mask[None], logits + bias.astype(logits.dtype)[:, None], logits)
