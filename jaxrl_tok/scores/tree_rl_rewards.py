"""Process rewards of the nodes of a tree, as TreeRL has them."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok.scores.tree_values import tree_values


class TreeRewards(NamedTuple):
    """Values of the nodes and what is credited to their tokens."""

    values: Float[Array, "P N"]
    rewards: Float[Array, "P N"]


def tree_rl_rewards(
    node_parents: Int[Array, "P N"],
    node_rewards: Float[Array, "P N"],
    node_lengths: Float[Array, "P N"] | None = None,
    *,
    as_released: bool = False,
    norm: Literal["token", "step", "none"] = "token",
    weighted: bool = True,
    use_state_value: bool = True,
) -> TreeRewards:
    """Gain of a node over the root and over its parent, each leaf's path sharing it.

        R(n) = (V(n) - V(root) + V(n) - V(parent(n))) / sqrt(L(n))

    TreeRL, https://arxiv.org/abs/2506.11902; V is the mean reward of the L(n) leaves under n (`tree_values`), and
    R(root) = 0. The released code computes something else, here with `as_released`:

        D(n) = K/(K-1) (V(n) - V(root)),  K the number of leaves: its leaves' rewards, each minus the mean of the others
        U(n) = (D(n) - mean D) / sqrt(L(n)),   R(n) = U(n) - U(parent(n)) + U(n)

    in which the parent's value has already been divided by the root of its own number of leaves. `mean D` counts a
    node once for each of its leaves ("step"), also once for each of its tokens ("token", by `node_lengths`), or is 0
    ("none"). Without `weighted` there is no division by sqrt(L), without `use_state_value` no last term. Equal
    rewards give exactly 0, and so does a tree with one leaf.
    """
    values, leaves = tree_values(node_parents, node_rewards, average="leaves")
    parents = jnp.maximum(node_parents, 0)
    counted = (node_parents >= 0) & (leaves > 0)
    root = values[:, :1]
    shared = jnp.sqrt(jnp.maximum(leaves, 1))
    if not as_released:
        gain = (values - root) + (values - jnp.take_along_axis(values, parents, axis=1))
        return TreeRewards(values, jnp.where(counted, gain / shared, 0))
    others = leaves[:, :1] - 1
    centred = jnp.where(leaves > 0, values - root, 0) * jnp.where(others > 0, (others + 1) / jnp.maximum(others, 1), 0)
    if norm != "none":
        weights = leaves if norm == "step" or node_lengths is None else leaves * node_lengths
        total = jnp.sum(weights, axis=1, keepdims=True)
        mean = jnp.sum(weights * centred, axis=1, keepdims=True) / jnp.where(total > 0, total, 1)
        centred = centred - mean
    state = jnp.where(leaves > 0, centred / shared if weighted else centred, 0)
    gain = state - jnp.take_along_axis(state, parents, axis=1)
    return TreeRewards(state, jnp.where(counted, gain + state if use_state_value else gain, 0))
