"""Credit for the group's best completion only."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def pass_at_k(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    eps: float = 1e-6,
    use_std: bool = True,
) -> Float[Array, "P G T"]:
    """By how much the group's best completion beats its second best, given to the best alone.

        A[p,g,t] = (r[p,g] - max_{k != g} r[p,k]) / (std_g r[p] + eps) for the best g, 0 for the others

    Tang et al. 2025, https://arxiv.org/abs/2503.19595, as verl's "grpo_passk": what the completion adds to the
    maximum of the group, its pass@k. `use_std = false` leaves the division out. Two best ones give 0 everywhere, so
    with rewards of 0 and 1 only a single success in a group teaches. Equal rewards and a group of one (an
    error in verl) give exactly 0.

    Fidelity: code. verl's form.
    Degenerate: in a group of two without the division the better one gets twice its `dr_grpo`, the other 0.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    best = valid & (rewards >= jnp.max(jnp.where(valid, rewards, -jnp.inf), axis=1, keepdims=True))
    others = valid & ~best
    alone = (jnp.sum(best, axis=1, keepdims=True) == 1) & jnp.any(others, axis=1, keepdims=True)
    second = jnp.max(jnp.where(others, rewards, -jnp.inf), axis=1, keepdims=True)
    lead = jnp.where(best & alone, rewards - jnp.where(alone, second, 0), 0)
    return masked.per_token(lead / (masked.std(rewards, valid, axis=1) + eps) if use_std else lead, mask)
