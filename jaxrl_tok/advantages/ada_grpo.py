"""GRPO with rewards that are larger for the rarer formats of a group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.advantages.grpo import grpo


def ada_grpo(
    rewards: Float[Array, "P G"],
    format_ids: Int[Array, "P G"],
    progress: Float[Array, ""],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """GRPO's advantage on rewards scaled up by how rare the completion's format is in its group.

        r'[p,g] = r[p,g] (1 + (n[p] / F[p,g] - 1) (1 + cos(pi progress)) / 2)
        A[p,g,t] = (r'[p,g] - mean_g r'[p]) / (std_g r'[p] + eps)

    Ada-GRPO of ARM, https://arxiv.org/abs/2505.20258: n valid completions, F of them in this one's format. The
    diversity fades over the training (`progress` from 0 to 1). A completion in no known format should have
    reward 0. Equal rewards give exactly 0 only where the formats are equally frequent, or the rewards 0: a
    success in a rare format beats one in a common format. `eps`, `singleton`: as in `grpo`.

    Fidelity: code.
    Degenerate: progress = 1, or one format, is `grpo`.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    same = (format_ids[:, :, None] == format_ids[:, None, :]) & valid[:, None, :]
    alike = jnp.maximum(jnp.sum(same, axis=2, dtype=rewards.dtype), 1)
    rarity = masked.count(valid, rewards, axis=1) / alike
    fading = ((1 + jnp.cos(jnp.pi * progress)) / 2).astype(rewards.dtype)
    scaled = jnp.where(valid, rewards, 0) * (1 + (rarity - 1) * fading)
    return grpo(scaled, mask, valid, eps=eps, singleton=singleton)
