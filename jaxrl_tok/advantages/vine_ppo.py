"""Advantages of reasoning steps from Monte-Carlo values."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores import final_state_values, spread, value_differences, whiten


def vine_ppo(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    state_values: Float[Array, "P G S1"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    whitening: Literal["off", "verl", "openrlhf"] = "verl",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Change of the estimated value over a reasoning step, given to its tokens, shifted and scaled over the batch.

        A[p,g,t] = V[p,g,k+1] - V[p,g,k],   k = segment_ids[p,g,t],   V after the last step = rewards[p,g]

    VinePPO, Kazemnejad et al. 2024, https://arxiv.org/abs/2410.01679: V[k] is the mean reward of 9 rollouts from the
    state before step k (a truncated one scores 0); the end token belongs to the last step. A value that was not
    estimated (NaN) is the next one, so that its step gets 0 (`value_differences`). What `state_values` holds behind a
    completion's last step does not matter. Tokens outside of steps get 0 and are not whitened over. `whitening`: the
    form (`whiten`; the authors' is "verl"), or "off"; over the whole batch under `jit` on a mesh, inside `shard_map`
    over the shard, or with `axis_name` over all shards. Relative to the values and not to the group: equal rewards do
    not give 0.

    Fidelity: code.
    Degenerate: with one step and no whitening, the reward minus the value of the prompt.
    """
    mask = mask & (segment_ids >= 0) & (segment_ids < state_values.shape[2] - 1)
    mask = mask if valid is None else mask & valid[:, :, None]
    values = final_state_values(rewards, segment_ids, state_values, mask)
    differences = value_differences(values, jnp.zeros_like(values[:, :, 1:]))
    advantages = spread(segment_ids, differences, mask)
    if whitening == "off":
        return advantages
    return whiten(advantages, mask, form=whitening, axis_name=axis_name)
