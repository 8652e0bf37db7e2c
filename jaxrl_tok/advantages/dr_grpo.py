"""Group-relative advantage without the division by the standard deviation."""

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards


def dr_grpo(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """Reward minus the group's mean, given to every token.

        A[p,g,t] = r[p,g] - mean_g r[p]

    Dr. GRPO, Liu et al. 2025, https://arxiv.org/abs/2503.20783, which pairs it with the `constant_length`
    reduction. The mean includes the completion itself, so this is (G - 1) / G times `rloo`. Equal rewards
    give exactly 0. A group of one gives 0, or with `singleton = "raw"` its reward, as in verl.

    Fidelity: code.
    Degenerate: (G - 1) / G times `rloo`.
    """
    return masked.per_token(centred_rewards(rewards, valid, singleton=singleton), mask)
