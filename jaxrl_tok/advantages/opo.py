"""Advantage over the length-weighted mean of the group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def opo(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """Reward minus the mean of the group's rewards weighted by length, given to every token.

        A[p,g,t] = r[p,g] - sum_g L[p,g] r[p,g] / sum_g L[p,g],   L[p,g] = trained tokens of the completion

    OPO, https://arxiv.org/abs/2505.23585: the baseline of least variance when the squared gradient norm of a
    completion grows with its length. Equal rewards give exactly 0. A group of one gives 0, or with
    `singleton = "raw"` its reward, as in verl.

    Fidelity: code. verl's form.
    Degenerate: with equal lengths it is `dr_grpo`.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    lengths = jnp.sum(mask, axis=2, dtype=rewards.dtype)
    weight = masked.total(lengths, valid, axis=1)
    baseline = masked.total(lengths * rewards, valid, axis=1) / jnp.maximum(weight, 1)
    advantages = jnp.where(valid & ~masked.is_constant(rewards, valid, axis=1), rewards - baseline, 0)
    if singleton == "raw":
        alone = valid & (jnp.sum(valid, axis=1, keepdims=True) == 1)
        advantages = jnp.where(alone, rewards, advantages)
    return masked.per_token(advantages, mask)
