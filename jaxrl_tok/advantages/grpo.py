"""Group-relative advantage."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards, standardised_rewards


def grpo(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    eps: float = 1e-6,
    scale: Literal["group", "batch"] = "group",
    singleton: Literal["zero", "raw"] = "zero",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Group-relative advantage: each reward standardised within its group, given to every token.

        A[p,g,t] = (r[p,g] - mean_g r[p]) / (std_g r[p] + eps)

    GRPO, Shao et al. 2024, https://arxiv.org/abs/2402.03300. `std` is the unbiased one (divides by the number
    of valid completions minus 1) and `eps` 1e-6, as in verl; TRL adds 1e-4. `scale = "batch"` divides by the
    std of all rewards of the batch instead (TRL's option): of the whole batch under `jit` on a mesh; inside
    `shard_map` of the shard, or with `axis_name` of all shards. Without a division it is `dr_grpo`. Equal
    rewards give exactly 0. A group of one gives 0, or with `singleton = "raw"` reward / (1 + eps), as in
    verl.

    Fidelity: code. verl's and TRL's forms.
    Degenerate: two completions with different rewards give 1 / sqrt(2) and its negative.
    """
    if scale == "group":
        return masked.per_token(standardised_rewards(rewards, valid, eps=eps, singleton=singleton), mask)
    centred = centred_rewards(rewards, valid, singleton=singleton)
    std = masked.std(rewards, jnp.ones_like(rewards, bool) if valid is None else valid, axis_name=axis_name)
    return masked.per_token(centred / (std + eps), mask)
