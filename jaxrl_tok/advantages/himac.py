"""One group-relative advantage for the plan, another for carrying it out."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.advantages.grpo import grpo
from jaxrl_tok.errors import ConfigError


def himac(
    reward_parts: Float[Array, "P G K"],
    planning: Bool[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    eps: float = 1e-6,
) -> Float[Array, "P G T"]:
    """GRPO over the macro returns on the tokens of the blueprint, over the micro returns on the rest.

        A[p,g,t] = (R[p,g,i] - mean_g R[p,:,i]) / (std_g R[p,:,i] + eps),   i = 0 where planning[p,g,t], else 1

    HiMAC, Jin et al. 2026, https://arxiv.org/abs/2603.00977. `reward_parts` are the macro return (of blueprints, each
    carried out once) and the micro return (of executions of the best blueprint). The paper trains the two levels in
    turn, each on groups of its own: a group of one phase has the same number, say 0, in all of the other part, which
    gives those tokens exactly 0. The best blueprint is the one with the largest macro return. std is the unbiased
    one. Equal returns give exactly 0, and so does a group of one.

    Raises:
        ConfigError: there are not two parts.

    Fidelity: reconstructed. The division and eps are GRPO's.
    Degenerate: with both returns equal it is `grpo`.
    """
    if reward_parts.shape[2] != 2:
        raise ConfigError(f"himac: reward_parts has {reward_parts.shape[2]} parts, expected 2: macro and micro return")
    macro, micro = (grpo(reward_parts[:, :, i], mask, valid, eps=eps) for i in range(2))
    return jnp.where(planning, macro, micro)
