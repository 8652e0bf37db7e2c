"""Values of the nodes of a tree of rollouts."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok import masked


class TreeValues(NamedTuple):
    """Mean rewards beneath the nodes, and of how many leaves."""

    values: Float[Array, "P N"]
    leaves: Float[Array, "P N"]


def tree_values(
    node_parents: Int[Array, "P N"],
    node_rewards: Float[Array, "P N"],
    *,
    average: Literal["children", "leaves"] = "children",
) -> TreeValues:
    """Values by averaging up: a leaf's is its reward, an inner node's the mean over its children or leaves.

        V(leaf) = r(leaf);   V(n) = mean over the children c of V(c), or over the leaves under n of r

    "children" is SPO-tree's, https://arxiv.org/abs/2505.23564, which weighs all children equally; "leaves" is
    TreeRL's, https://arxiv.org/abs/2506.11902. They agree where all subtrees of a node have as many leaves. Rewards
    of inner nodes do not matter. A leaf whose reward is NaN has none and counts nowhere; a node without a rewarded
    leaf, and padding, has value 0 and 0 leaves. Where all children have one value, their parent has that same one to
    the last bit.
    """
    nodes = jnp.arange(node_parents.shape[1], dtype=node_parents.dtype)
    inner = jnp.any(node_parents[:, :, None] == nodes[None, None], axis=1)
    rewarded = ~inner & (node_parents > -2) & ~jnp.isnan(node_rewards)
    start = TreeValues(jnp.where(rewarded, node_rewards, 0), rewarded.astype(node_rewards.dtype))

    def finish(known: TreeValues, node: Int[Array, ""]) -> tuple[TreeValues, None]:
        """Gives an inner node its value. Its children stand behind it and have theirs."""
        children = (node_parents == node) & (known.leaves > 0)
        weights = jnp.where(children, known.leaves if average == "leaves" else 1, 0).astype(known.values.dtype)
        some = jnp.any(children, axis=1, keepdims=True)
        mean = masked.total(weights * known.values, children, 1) / jnp.where(
            some, masked.total(weights, children, 1), 1
        )
        low, high = masked.bounds(known.values, children, 1)
        here = (nodes[None] == node) & some
        values = jnp.where(here, jnp.where(low < high, mean, low), known.values)
        return TreeValues(values, jnp.where(here, masked.total(known.leaves, children, 1), known.leaves)), None

    return jax.lax.scan(finish, start, nodes, reverse=True)[0]
