"""What a step down a tree of rollouts gains."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok.scores.tree_values import tree_values


def tree_edge_advantages(
    node_parents: Int[Array, "P N"],
    node_rewards: Float[Array, "P N"],
    *,
    scale: Literal["none", "siblings"] = "none",
    eps: float = 1e-8,
) -> Float[Array, "P N"]:
    """Value of each node minus its parent's, of `tree_values` over children.

        A(n) = V(n) - V(parent(n)),   with "siblings" over (std of V over the children of parent(n)) + eps

    SPO-tree, https://arxiv.org/abs/2505.23564, whose code calls the first form "rloo" (though the parent's value is
    the mean over all siblings, the node itself included) and the second "grpo"; its std is the population's (divides
    by the number of siblings). 0 for the root, for padding, and for a node without a rewarded leaf.
    """
    values, leaves = tree_values(node_parents, node_rewards)
    parents = jnp.maximum(node_parents, 0)
    counted = (node_parents >= 0) & (leaves > 0)
    edges = jnp.where(counted, values - jnp.take_along_axis(values, parents, axis=1), 0)
    if scale == "none":
        return edges
    nodes = jnp.arange(node_parents.shape[1], dtype=node_parents.dtype)
    child_of = (node_parents[:, :, None] == nodes[None, None]) & counted[:, :, None]
    squares = jnp.sum(jnp.where(child_of, (edges**2)[:, :, None], 0), axis=1)
    variance = squares / jnp.maximum(jnp.sum(child_of, axis=1, dtype=edges.dtype), 1)
    std = jnp.sqrt(jnp.where(variance > 0, variance, 1))
    return edges / (jnp.take_along_axis(std, parents, axis=1) + eps)
