"""Reward minus the group's mean, whitened over the batch."""

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards, whiten


def reinforce_pp_baseline(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["zero", "raw"] = "zero",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Reward minus the group's mean, shifted and scaled over the batch's tokens.

        c[p,g] = r[p,g] - mean_g r[p],   A[p,g,t] = (c[p,g] - mean c) / sqrt(var c + 1e-8)

    REINFORCE++-baseline, https://arxiv.org/abs/2501.03262, as in verl. Mean and variance are over the trained
    tokens of the batch, so long completions weigh more (`whiten`). Since that mean is not 0 when lengths
    differ, a group of equal rewards gets the same small number on all of its tokens, and exactly 0 only where no
    group of the batch has a difference. So does a group of one, which with `singleton = "raw"` starts from its
    reward, as in verl. The batch is the whole one under `jit` on a mesh; inside `shard_map` the shard, or with
    `axis_name` all shards.

    Fidelity: code.
    Degenerate: with equal lengths it is `dr_grpo` over one number for the batch.
    """
    centred = masked.per_token(centred_rewards(rewards, valid, singleton=singleton), mask)
    return whiten(centred, mask, valid, axis_name=axis_name)
