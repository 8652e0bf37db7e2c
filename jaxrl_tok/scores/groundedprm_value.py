"""Value of a node of a search tree from one simulated and verified completion of it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def groundedprm_value(
    rewards: Float[Array, "P G"],
    step_rewards: Float[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    *,
    depth: int = 0,
    decay: float = 0.9,
) -> Float[Array, "P G D"]:
    """What a simulation adds to its node, to the node's parent, and so on up to the `depth`-th ancestor.

        V = sum_{i < n} v[i] (n - i) / n^2 + F / n,   F alone when n = 0;   x[d] = decay^d V

    GroundedPRM, https://arxiv.org/abs/2510.14942, as its code has it: v are the verdicts (1, -1, or 0 for none) on
    the n simulated steps before the last, F that on the final answer. The tree adds up what its nodes get, and the
    sign of a node's sum is the label of its step. This makes data for a reward model and is no advantage.
    """
    n = jnp.sum(step_mask, axis=2, keepdims=True, dtype=rewards.dtype)
    some = jnp.maximum(n, 1)
    verdicts = jnp.where(step_mask, step_rewards, 0)
    ordinal = jnp.cumsum(step_mask, axis=2, dtype=rewards.dtype) - 1
    of_steps = jnp.sum(verdicts * (n - ordinal), axis=2, keepdims=True) / some**2
    value = of_steps + rewards[:, :, None] / some
    return value * (decay ** jnp.arange(depth + 1, dtype=rewards.dtype))[None, None]
