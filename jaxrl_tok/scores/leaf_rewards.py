"""The rewards of completions as those of the leaves that they end in."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def leaf_rewards(
    rewards: Float[Array, "P G"],
    node_ids: Int[Array, "P G T"],
    node_parents: Int[Array, "P N"],
    mask: Bool[Array, "P G T"],
) -> Float[Array, "P N"]:
    """Puts a completion's reward on the node of its last trained token; NaN, no reward, on all others.

        r[p,n] = rewards[p,g] for the g with node_ids[p,g,t] = n,   t the last with mask[p,g,t]

    What `tree_values` reads of a tree whose completions end in different leaves. A completion without a trained
    token, such as one without a reward or one that does not exist, gives its leaf none.
    """
    nodes = node_parents.shape[1]
    time = jnp.arange(mask.shape[2], dtype=jnp.int32)[None, None]
    last = jnp.max(jnp.where(mask, time, -1), axis=2, keepdims=True)
    node = jnp.take_along_axis(node_ids, jnp.maximum(last, 0), axis=2)
    node = jnp.where(last >= 0, node, nodes)[:, :, 0]  # out of range = dropped
    empty = jnp.full(nodes, jnp.nan, rewards.dtype)
    return jax.vmap(lambda node, rewards: empty.at[node].set(rewards, mode="drop"))(node, rewards)
