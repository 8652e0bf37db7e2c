"""Advantage relative to the mean of the group's tokens."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.advantages.grpo import grpo


def hapo_group_average(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    limit: float = 5.0,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
    as_released: bool = False,
) -> Float[Array, "P G T"]:
    """Each reward standardised among the group's tokens, each of which has its completion's.

        A[p,g,t] = (r[p,g] - mu[p]) / (sigma[p] + eps), or in the whole group `grpo` if some |A| >= limit
        mu = sum_g n r / sum_g n,   sigma^2 = sum_g n (r - mu)^2 / sum_g n,   n[p,g] = trained tokens

    HAPO, https://arxiv.org/abs/2509.16591; `sigma` is the population's. Long completions weigh more, so that the
    advantages of a group's tokens, not of its completions, have mean 0. In the released code padding takes part in
    the check, with the advantage of a reward of 0: `as_released` does so, and then the result depends on how far
    the group's rows are padded. Equal rewards give exactly 0. A group of one gives 0, or with `singleton = "raw"`
    what `grpo` gives, if the check sends it there.

    Fidelity: code.
    Degenerate: completions of the same length give `grpo` with the population's std.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    trained = mask & valid[:, :, None]
    n = jnp.sum(trained, axis=2, dtype=rewards.dtype)
    counts = n > 0
    total = jnp.maximum(jnp.sum(n, axis=1, keepdims=True), 1)
    rewards = jnp.where(valid, rewards, 0)
    mean = jnp.sum(n * rewards, axis=1, keepdims=True) / total
    constant = masked.is_constant(rewards, counts, axis=1)
    centred = jnp.where(constant, 0, rewards - mean)
    variance = jnp.sum(n * centred**2, axis=1, keepdims=True) / total
    spread = jnp.where(constant, 0, jnp.sqrt(jnp.where(constant, 1, variance))) + eps
    far = counts & ~constant & (jnp.abs(centred) >= limit * spread)
    if as_released:
        padded = jnp.any(valid[:, :, None] & ~mask, axis=2)
        far = far | (padded & (jnp.abs(mean) >= limit * spread))
    fallback = grpo(rewards, mask, valid, eps=eps, singleton=singleton)
    averaged = jnp.where(trained, (centred / jnp.where(constant, 1, spread))[:, :, None], 0)
    return jnp.where(jnp.any(far, axis=1)[:, None, None], fallback, averaged)
