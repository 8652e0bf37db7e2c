"""Returns of tokens from step rewards in their min-form."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.scores.leave_one_out import leave_one_out
from jaxrl_tok.scores.min_form_rewards import min_form_rewards
from jaxrl_tok.scores.segment_sums import segment_sums
from jaxrl_tok.scores.spread import spread


class MinFormReturns(NamedTuple):
    """Returns, and the tokens that have one: those of steps but for the last of each."""

    returns: Float[Array, "P G T"]
    inside: Bool[Array, "P G T"]


def min_form_returns(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    step_rewards: Float[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    old_logprobs: Float[Array, "P G T"] | None = None,
    ref_logprobs: Float[Array, "P G T"] | None = None,
    *,
    temperature: float = 0.1,
    baseline: Literal["token", "step"] = "token",
    verifier_weight: float = 1.0,
    kl_weight: float = 1e-3,
) -> MinFormReturns:
    """Sum of the weighted step rewards from a token's step on, minus a baseline, plus the outcome and a KL penalty.

        y[p,g,t] = sum_{s >= step of t} (x[p,g,s] - b[p,g] n[p,g,s]) + verifier_weight v[p,g] - kl_weight K[p,g,t]
        v = r minus the mean of the group's others;   K = sum_{u >= t} (old_logprobs - ref_logprobs)[p,g,u]

    PURE, https://arxiv.org/abs/2504.15275, with x of `min_form_rewards`. The last token of a step is its separator,
    at which the reward model gives its score; it gets return 0, and n counts the tokens of a step without it. b is
    the sum of x over the group's other completions over the number of their tokens, or with "step" the mean of their
    sums over their numbers of steps, then with n = 1. Outcomes count 1 where a prompt has no answer to check. Without
    both log-probs there is no penalty. Alone in its group, a completion has b = v = 0. Steps follow one another in
    the order of their ids; tokens outside of steps get 0.
    """
    if valid is not None:
        mask, step_mask = mask & valid[:, :, None], step_mask & valid[:, :, None]
    inside = _before_the_ends(segment_ids, step_mask, mask)
    weighted = min_form_rewards(step_rewards, step_mask, temperature=temperature)
    if baseline == "token":
        lengths = masked.count(mask, weighted, axis=2)
        sizes = segment_sums(jnp.ones(mask.shape, weighted.dtype), segment_ids, step_mask, inside)
        weighted = weighted - _of_others(jnp.sum(weighted, axis=2, keepdims=True), lengths) * sizes
    else:
        steps = masked.count(step_mask, weighted, axis=2)
        mean = jnp.sum(weighted, axis=2, keepdims=True) / jnp.maximum(steps, 1)
        weighted = weighted - _of_others(mean, (steps > 0).astype(mean.dtype))
    to_go = jax.lax.cumsum(jnp.where(step_mask, weighted, 0), axis=2, reverse=True)
    returns = spread(segment_ids, to_go + verifier_weight * leave_one_out(rewards, valid)[:, :, None], inside)
    if old_logprobs is not None and ref_logprobs is not None:
        difference = jnp.where(mask, old_logprobs, 0) - jnp.where(mask, ref_logprobs, 0)
        returns = returns - kl_weight * jax.lax.cumsum(difference, axis=2, reverse=True)
    return MinFormReturns(jnp.where(inside, returns, 0), inside)


def _before_the_ends(
    segment_ids: Int[Array, "P G T"], step_mask: Bool[Array, "P G S"], mask: Bool[Array, "P G T"]
) -> Bool[Array, "P G T"]:
    """Marks the trained tokens of steps but for the last of each."""
    inside = mask & (segment_ids >= 0) & (segment_ids < step_mask.shape[2])
    time = jnp.where(inside, jnp.arange(mask.shape[2], dtype=jnp.int32)[None, None], -1)

    def latest(last: Int[Array, " S"], time: Int[Array, " T"], ids: Int[Array, " T"]) -> Int[Array, " S"]:
        return last.at[ids].max(time)

    nothing = jnp.where(step_mask, -1, -1).astype(time.dtype)  # laid over devices as the mask is
    last = jax.vmap(jax.vmap(latest))(nothing, time, jnp.where(inside, segment_ids, 0))
    ends = spread(segment_ids, jnp.where(step_mask, last, -1).astype(jnp.float32), mask)
    return inside & (time < ends.astype(jnp.int32))


def _of_others(totals: Float[Array, "P G 1"], counts: Float[Array, "P G 1"]) -> Float[Array, "P G 1"]:
    """Total over count of the group's other completions, 0 where these count nothing."""
    total = jnp.sum(totals, axis=1, keepdims=True) - totals
    count = jnp.sum(counts, axis=1, keepdims=True) - counts
    return jnp.where(count > 0, total / jnp.where(count > 0, count, 1), 0)
