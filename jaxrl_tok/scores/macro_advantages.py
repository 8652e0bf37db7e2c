"""Advantages and returns of macro actions, runs of tokens that are one decision."""

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores.generalized_advantages import generalized_advantages
from jaxrl_tok.scores.outcome_token_rewards import ends
from jaxrl_tok.scores.reward_to_go import linear_recurrence
from jaxrl_tok.scores.segment_sums import totals_by_id
from jaxrl_tok.scores.spread import spread

Pooling: TypeAlias = Literal["equal", "unit", "position"]


class MacroAdvantages(NamedTuple):
    """What the tokens learn from, and the macro actions that it comes from."""

    advantages: Float[Array, "P G T"]
    returns: Float[Array, "P G T"]  # targets of the critic
    macro_ids: Int[Array, "P G T"]  # of each token, from 0; -1 where masked
    macro_rewards: Float[Array, "P G S"]
    macro_values: Float[Array, "P G S"]
    macro_advantages: Float[Array, "P G S"]


def macro_advantages(
    token_rewards: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    boundaries: Bool[Array, "P G T"] | Int[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    pooling: Pooling = "equal",
    as_released: bool = False,
) -> MacroAdvantages:
    """Generalised advantages and returns with a macro action as one step, given to all of its tokens.

        V[w] = sum_k s[k] v[w,k],   R[w] = sum_k r[w,k],   over the tokens k = 0, 1, ... of macro action w
        A[w] = d[w] + gamma lam A[w+1],   d[w] = R[w] + gamma V[w+1] - V[w],   returns[w] = A[w] + V[w]

    MA-RLHF, https://arxiv.org/abs/2410.02743. The weights s are equal, or all on the last token ("unit"), or
    proportional to 1 / (k + 1) ("position"). `as_released` pools the rewards with them too, as the authors' code
    does: a mean of the KL penalties in place of their sum. One discount for each macro action. A macro action
    starts where `boundaries` says, and at the first trained token in any case; boundaries on masked tokens
    count nowhere, and a masked token inside one is not of it. Where the boundaries are numbers, 2 stands for an
    empty macro action of value and reward 0 before the one that starts here (`ngram_boundaries`).
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    started = jnp.where(mask, boundaries.astype(jnp.int32), 0)
    started = jnp.where(ends(mask)[0], jnp.maximum(started, 1), started)
    ids = jnp.where(mask, jnp.cumsum(started, axis=2, dtype=jnp.int32) - 1, -1)
    size = mask.shape[2] * (1 if boundaries.dtype == jnp.bool_ else 2)
    weights = _weights(mask, started > 0, values.dtype, pooling)
    weight = totals_by_id(weights, ids, size)
    weight = jnp.where(weight > 0, weight, 1)
    macro_values = totals_by_id(jnp.where(mask, values, 0) * weights, ids, size) / weight
    token_rewards = jnp.where(mask, token_rewards, 0)
    if as_released:
        macro_rewards = totals_by_id(token_rewards * weights, ids, size) / weight
    else:
        macro_rewards = totals_by_id(token_rewards, ids, size)
    number = jnp.max(ids, axis=2, keepdims=True, initial=-1) + 1
    exists = jax.lax.broadcasted_iota(jnp.int32, macro_values.shape, 2) < number
    # The macro actions stand one after the other, without holes: "zero" saves the search for the next one.
    of_macros = generalized_advantages(macro_rewards, macro_values, exists, gamma=gamma, lam=lam, holes="zero")
    advantages, returns = (spread(ids, x, mask) for x in of_macros)
    return MacroAdvantages(advantages, returns, ids, macro_rewards, macro_values, of_macros.advantages)


def _weights(mask: Bool[Array, "P G T"], starts: Bool[Array, "P G T"], dtype: Any, pooling: Pooling) -> Array:
    """Weight of each token's value in its macro action, before they are normalised."""
    ones = mask.astype(dtype)
    if pooling == "equal":
        return ones
    if pooling == "position":
        return ones / jnp.maximum(linear_recurrence(ones, jnp.where(starts, 0, 1).astype(dtype), reverse=False), 1)
    another_next = jnp.concatenate([starts[..., 1:], jnp.ones_like(starts[..., :1])], axis=-1)
    left = linear_recurrence(ones, jnp.where(another_next, 0, 1).astype(dtype))
    return jnp.where(left == 1, ones, 0)
