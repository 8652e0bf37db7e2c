"""Advantages of the segments of a tree of rollouts."""

from typing import Literal

from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores import spread, tree_edge_advantages


def spo_tree(
    node_ids: Int[Array, "P G T"],
    node_parents: Int[Array, "P N"],
    node_rewards: Float[Array, "P N"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    scale: Literal["none", "siblings"] = "none",
    eps: float = 1e-8,
) -> Float[Array, "P G T"]:
    """Value of the token's node minus its parent's, the values being means over children.

        A[p,g,t] = V(n) - V(parent(n)),  n = node_ids[p,g,t];   with "siblings" over (std of the siblings' V) + eps

    SPO-tree, Guo et al. 2025, https://arxiv.org/abs/2505.23564. A leaf's value is its reward, an inner node's the
    mean over its children, however many leaves these have (`tree_edge_advantages`). The authors' code calls the two
    forms "rloo", the default, and "grpo", with the population's std and `eps` 1e-8. Segments of advantage 0 are no
    samples there; `spo_whiten` with `skip_zero` and the weights `probability_mask` and `per_node` do the rest. Equal
    rewards below a node give its segments exactly 0. Along a path the advantages add up to r - V(root).

    Fidelity: code.
    Degenerate: in a tree of depth 1 it is `dr_grpo`, with "siblings" `grpo` with the population's std.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    advantages = tree_edge_advantages(node_parents, node_rewards, scale=scale, eps=eps)
    return spread(node_ids, advantages[:, None], mask)
