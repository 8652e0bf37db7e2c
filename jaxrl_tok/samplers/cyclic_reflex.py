"""A bias on the tokens of reflection that rises and falls with the position."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers.token_bias import token_bias


def cyclic_reflex(
    logits: Float[Array, "B V"],
    positions: Int[Array, " B"],
    thinking: Bool[Array, " B"],
    *,
    ids: tuple[int, ...] = (),
    amplitude: float = 5.0,
    period: int = 1200,
) -> Float[Array, "B V"]:
    """Adds a triangular wave of the position to the logits of the tokens of reflection, while a row thinks.

        z[b, v] = logits[b, v] + amplitude * w(positions[b] / period)   if v in ids and thinking[b]
        w(x): 0 at x = 0, 1 at 1/4, 0 at 1/2, -1 at 3/4, linear between, of period 1

    CyclicReflex, https://arxiv.org/abs/2506.11077. `positions` counts the row's tokens so far, and the wave is 0 at
    the first; over a period its mean is 0. The defaults are the ones of the paper's code for MATH500 and AIME (period
    900 for AMC); there it acts before the temperature, which divides it too. `ids` are the tokens of "wait", "Wait",
    "but", "But" and "Alternatively". The code looks these words up as they stand, without the space that most
    occurrences begin with, and adds the bias once for each word, several times where more than one is unknown; here
    the ids are the caller's, and each counts once. The code ends with "</think>", here with `thinking`; its window of
    positions is for the caller to put there too.

    Raises:
        ConfigError: an id is not in the vocabulary, or the period is no positive number of tokens.

    Fidelity: code.
    Degenerate: amplitude = 0 leaves the logits as they are.
    """
    if period < 1:
        raise ConfigError(f"cyclic_reflex: period = {period!r} must be a number of tokens, 1 or more")
    # In whole quarters of a token, so that the wave does not lose digits with the position.
    quarters = jnp.mod(4 * jnp.mod(positions, period) - period, 4 * period)
    wave = jnp.abs(quarters.astype(logits.dtype) / period - 2) - 1
    return token_bias(logits, jnp.where(thinking, amplitude * wave, 0), ids=ids)
