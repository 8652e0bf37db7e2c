"""Macro actions of a fixed number of tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxrl_tok.errors import ConfigError


def ngram_boundaries(
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    n: int = 5,
    as_released: bool = False,
) -> Bool[Array, "P G T"] | Int[Array, "P G T"]:
    """Marks the first token of each macro action of n trained tokens; the last token is one of its own.

        start[p,g,t] = i[p,g,t] mod n = 0, or t is the last trained token;   i numbers the trained tokens from 0

    MA-RLHF, https://arxiv.org/abs/2410.02743, and n = 5 its default. The last token is apart because it holds the
    reward model's score. n = 1 is token by token, and n from the length on gives two macro actions. The
    authors' code lists the last token twice where n divides its number i (always, for n = 1), which puts an empty
    macro action of value 0 before it; `as_released` returns how many macro actions start at each token, 2
    there. Nothing starts on a masked token or in a completion that is not valid.

    Raises:
        ConfigError: `n` is less than 1.
    """
    if n < 1:
        raise ConfigError(f"ngram_boundaries: n = {n!r} must be at least 1")
    mask = mask if valid is None else mask & valid[:, :, None]
    number = jnp.cumsum(mask, axis=2, dtype=jnp.int32)
    last = mask & (number == number[:, :, -1:])
    starts = mask & ((number - 1) % n == 0)
    if not as_released:
        return starts | last
    return starts.astype(jnp.int32) + last.astype(jnp.int32)
