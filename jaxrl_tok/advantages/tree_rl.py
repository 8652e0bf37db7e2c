"""Advantages of the steps of a tree of rollouts against the root and the parent."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores import segment_sums, spread, tree_rl_rewards


def tree_rl(
    node_ids: Int[Array, "P G T"],
    node_parents: Int[Array, "P N"],
    node_rewards: Float[Array, "P N"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    as_released: bool = False,
    norm: Literal["token", "step", "none"] = "token",
    weighted: bool = True,
    use_state_value: bool = True,
) -> Float[Array, "P G T"]:
    """Gain in value of the token's node over the root and over its parent, shared by the paths through it.

        A[p,g,t] = (V(n) - V(root) + V(n) - V(parent(n))) / sqrt(L(n)),  n = node_ids[p,g,t]

    TreeRL, Hou et al. 2025, https://arxiv.org/abs/2506.11902: V is the mean reward of the L(n) leaves under n. The
    released code weighs otherwise (`tree_rl_rewards`): `as_released` gives its process rewards, and `norm`,
    `weighted` and `use_state_value` are its options and of effect only there; a node's tokens are counted in one
    completion that runs through it. The code also gives a step of exactly 0 the reward of the step before it, which
    is left out here. Equal rewards give exactly 0.

    Fidelity: paper. As released: code.
    Degenerate: in a tree of depth 1 it is twice `dr_grpo`; a tree with one leaf gives 0.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    lengths = None
    if as_released and norm == "token":
        lengths = _node_lengths(node_ids, node_rewards, mask)
    options = {"norm": norm, "weighted": weighted, "use_state_value": use_state_value}
    rewards = tree_rl_rewards(node_parents, node_rewards, lengths, as_released=as_released, **options).rewards
    return spread(node_ids, rewards[:, None], mask)


def _node_lengths(
    node_ids: Int[Array, "P G T"], node_rewards: Float[Array, "P N"], mask: Bool[Array, "P G T"]
) -> Float[Array, "P N"]:
    """Number of the tokens of each node, in the completion that has most of them."""
    everywhere = jnp.ones((*mask.shape[:2], node_rewards.shape[1]), bool)
    ones = jax.lax.stop_gradient(jnp.ones(mask.shape, node_rewards.dtype))
    return jnp.max(segment_sums(ones, node_ids, everywhere, mask), axis=1, initial=0)
