"""Advantages of the steps that start from one state."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores.segment_sums import segment_sums
from jaxrl_tok.scores.spread import spread


def anchor_state_advantages(
    step_returns: Float[Array, "P G S"],
    step_states: Int[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    use_std: bool = False,
    eps: float = 1e-6,
) -> Float[Array, "P G S"]:
    """Return of a step minus the mean over the group's steps from an equal state.

        A[p,g,k] = (R[p,g,k] - mean R) / (std R + eps)  over the (h, j) with step_states[p,h,j] = step_states[p,g,k]

    The micro level of GiGPO, https://arxiv.org/abs/2505.10978. The division only with `use_std`; the std divides by n
    - 1. Steps of one trajectory that come back to a state count among the others. Exactly 0 for a state that is
    unique, or from which all returns are equal.
    """
    exists = step_mask if valid is None else step_mask & valid[:, :, None]
    arrays = jnp.where(exists, step_returns, 0), step_states, exists
    returns, states, exists = (x.reshape(x.shape[0], -1)[:, None] for x in arrays)
    groups = _numbered(states)
    count = _total(jnp.ones_like(returns), groups, exists)
    centred = returns - _total(returns, groups, exists) / jnp.maximum(count, 1)
    centred = jnp.where(_is_constant(returns, groups, exists), 0, centred)
    if use_std:
        variance = _total(centred**2, groups, exists) / jnp.maximum(count - 1, 1)
        centred = centred / (jnp.sqrt(jnp.where(variance > 0, variance, 1)) + eps)
    return jnp.where(exists, centred, 0)[:, 0].reshape(step_returns.shape)


def _numbered(states: Int[Array, "P 1 N"]) -> Int[Array, "P 1 N"]:
    """Small numbers in place of the states, equal for equal ones."""
    order = jnp.argsort(states, axis=2)
    ordered = jnp.take_along_axis(states, order, axis=2)
    starts = jnp.concatenate([jnp.zeros_like(order[:, :, :1], bool), ordered[:, :, 1:] != ordered[:, :, :-1]], axis=2)
    numbers = jnp.cumsum(starts, axis=2, dtype=jnp.int32)
    return jnp.take_along_axis(numbers, jnp.argsort(order, axis=2), axis=2)


def _total(x: Float[Array, "P 1 N"], groups: Int[Array, "P 1 N"], exists: Bool[Array, "P 1 N"]) -> Array:
    """Sum over the steps from the same state, at each of them."""
    return spread(groups, segment_sums(x, groups, jnp.ones_like(exists), exists), exists)


def _is_constant(x: Float[Array, "P 1 N"], groups: Int[Array, "P 1 N"], exists: Bool[Array, "P 1 N"]) -> Array:
    """Says whether x is the same at all steps from the same state."""

    def highest(x: Float[Array, " N"], groups: Int[Array, " N"]) -> Float[Array, " N"]:
        return jnp.full_like(x, -jnp.inf).at[groups].max(x)[groups]

    x = jax.lax.stop_gradient(x)
    above, below = (jax.vmap(jax.vmap(highest))(jnp.where(exists, y, -jnp.inf), groups) for y in (x, -x))
    return above <= -below
