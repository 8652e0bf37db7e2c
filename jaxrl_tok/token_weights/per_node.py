"""Each node of a tree of completions counts once."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def per_node(multiplicity: Float[Array, "P G T"], mask: Bool[Array, "P G T"]) -> Float[Array, "P G T"]:
    """Weight 1 / multiplicity, so that a token shared by several completions of a tree counts once.

        w[p,g,t] = 1 / multiplicity[p,g,t]

    In trees of rollouts, as SPO's, https://arxiv.org/abs/2505.23564, a node is trained once, however many
    completions run through it. `multiplicity` is the number of the group's completions that share the token's node;
    below 1 it counts as 1. The weights of a node's copies add up to 1, and those of a tree to its number of tokens.

    Fidelity: reconstructed. The rule is the trees', the form as a weight ours.
    Degenerate: without a shared token it is `uniform`.
    """
    sharers = jnp.maximum(jnp.where(mask, multiplicity, 1), 1)
    return jax.lax.stop_gradient(jnp.where(mask, 1 / sharers, 0))
