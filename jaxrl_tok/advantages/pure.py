"""Advantages from process rewards that count as their minimum."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.scores import min_form_returns, whiten


def pure(
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
    as_released: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Returns of min-form process rewards and of the outcome, shifted and scaled over the batch's tokens.

        A[p,g,t] = (y[p,g,t] - mean y) / sqrt(max(var y, 1e-8)),   y of `min_form_returns`

    PURE, Cheng et al. 2025, https://arxiv.org/abs/2504.15275, with its temperature 0.1, KL weight 1e-3 and verifier
    weight 1. `step_rewards` are p(right) - p(wrong) of a reward model at the end of each step; `rewards` the
    verifier's, not used with `verifier_weight = 0`. Mean and population variance are over the tokens that have a
    return; separators, the last tokens of steps, get 0. In the authors' code a token whose return is exactly 0 counts
    as a separator, and the variance adds mean^2 for each separator: `as_released`. Because returns look ahead, the
    tokens before the worst step bear the penalty and those after it are near the baseline. The batch is the whole one
    under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards. Equal rewards do not give 0.

    Fidelity: code. As released; otherwise with the variance corrected.
    Degenerate: temperature -> 0 credits the minimum; inf the mean; one step without reward model is whitened `rloo`.
    """
    y, inside = min_form_returns(
        rewards, segment_ids, step_rewards, step_mask, mask, valid, old_logprobs, ref_logprobs,
        temperature=temperature, baseline=baseline, verifier_weight=verifier_weight, kl_weight=kl_weight,
    )  # fmt: skip
    if not as_released:
        return whiten(y, inside, form="openrlhf", axis_name=axis_name)
    mask = mask if valid is None else mask & valid[:, :, None]
    counted = y != 0
    n = jnp.maximum(masked.count(counted, y, axis_name=axis_name), 1)
    mean = masked.mean(y, counted, axis_name=axis_name)
    variance = masked.total((y - mean) ** 2, mask, axis_name=axis_name) / n
    return jnp.where(counted, (y - mean) * jax.lax.rsqrt(jnp.maximum(variance, 1e-8)), 0)
