"""Centred reward, scaled up by the share of the batch that teaches something."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards


def gpg(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    alpha: Literal["paper", "verl"] = "paper",
    singleton: Literal["zero", "raw"] = "zero",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Reward minus the group's mean, over the share of the batch's groups whose rewards differ.

        A[p,g,t] = (r[p,g] - mean_g r[p]) / share

    GPG, https://arxiv.org/abs/2504.02546, whose loss is `gpg` too. With `alpha = "paper"` the share is that of the
    groups with a standard deviation above 1e-5, by which the authors' code divides the loss; with "verl" that of
    the completions with a reward other than 0, which is something else. A share of 0 counts as 1. Equal rewards
    give exactly 0. A group of one gives 0, or with `singleton = "raw"` its reward / share, as in verl. The batch is
    the whole one under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards.

    Fidelity: code.
    Degenerate: where every group has a difference it is `dr_grpo`.
    """
    centred = centred_rewards(rewards, valid, singleton=singleton)
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    if alpha == "verl":
        counted, of = valid & (rewards != 0), valid
    else:
        differ = ~masked.is_constant(rewards, valid, axis=1) & (masked.std(rewards, valid, axis=1) > 1e-5)
        of = jnp.any(valid, axis=1, keepdims=True)
        counted = differ & of
    share = masked.count(counted, rewards, axis_name=axis_name)
    share = share / jnp.maximum(masked.count(of, rewards, axis_name=axis_name), 1)
    return masked.per_token(centred / jnp.where(share > 0, share, 1), mask)
