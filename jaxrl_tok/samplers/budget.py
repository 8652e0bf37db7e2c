"""A sequence of tokens that is put in when a budget has run down."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers.token_mask import token_mask


def budget(
    logits: Float[Array, "B V"],
    remaining: Int[Array, " B"],
    forced: Int[Array, " B"],
    active: Bool[Array, " B"],
    *,
    tokens: tuple[int, ...],
    at: int | None = None,
) -> Float[Array, "B V"]:
    """Leaves a row whose budget has run down to `at` the next token of a sequence alone, until all of it is out.

        z[b, v] = 0 if v = tokens[forced[b]], else -inf       where `is_forced`;  z = logits elsewhere

    As in s1, https://arxiv.org/abs/2501.19393, which ends the thinking so: `tokens` are those of "</think>", perhaps
    with the words that open the answer, or the end token alone. What is forced is drawn with log-prob 0, whatever the
    policy thinks of it. It is not the policy's own: leave the token out of the mask that trains.

    Args:
        logits: of the next token; in a forced row they do not matter, NaN included.
        remaining: tokens that may still be drawn within the budget, this one included; below 0 is fine.
        forced: tokens of the sequence that are out, 0 at a completion's start; the caller adds `is_forced` to it.
        active: rows that the budget is about, such as those that are still thinking. Only the start asks for it, so
            that the sequence goes on behind the token that ended the thinking.
        tokens: the sequence.
        at: default len(tokens), with which the sequence just fits into the budget.

    Raises:
        ConfigError: no tokens, or one that is not in the vocabulary.
    """
    token_mask(tokens, logits.shape[-1], "budget: tokens")  # for its check
    now = is_forced(remaining, forced, active, tokens=tokens, at=at)
    sequence = jnp.asarray(np.array(tokens, np.int32))
    token = sequence[jnp.clip(forced, 0, len(tokens) - 1)]
    alone = jnp.where(jnp.arange(logits.shape[-1], dtype=jnp.int32)[None] == token[:, None], 0.0, -jnp.inf)
    return jnp.where(now[:, None], alone.astype(logits.dtype), logits)


def is_forced(
    remaining: Int[Array, " B"],
    forced: Int[Array, " B"],
    active: Bool[Array, " B"],
    *,
    tokens: tuple[int, ...],
    at: int | None = None,
) -> Bool[Array, " B"]:
    """Says which rows `budget` forces a token on, with the same parameters.

        active and forced = 0 and remaining <= at,   or   0 < forced < len(tokens)

    It happens once a completion: where the whole sequence is out, nothing more is forced.

    Raises:
        ConfigError: no tokens.
    """
    if not tokens:
        raise ConfigError("budget: tokens = () is no sequence to put in; give one token or more")
    starts = active & (forced == 0) & (remaining <= (len(tokens) if at is None else at))
    return starts | ((forced > 0) & (forced < len(tokens)))
