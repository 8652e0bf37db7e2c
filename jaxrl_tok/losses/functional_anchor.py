"""Clipped surrogate of functional tokens only."""

from jaxtyping import Array, Bool, Float

from jaxrl_tok.losses.ppo_clip import ppo_clip


def functional_anchor(
    log_ratio: Float[Array, "B T"],
    low: Float[Array, "B T"],
    high: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    planning: Bool[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T"]:
    """Clipped policy-gradient surrogate on the functional tokens, 0 on all others.

        loss[b,t] = -w min(rho A, clip(rho, low, high) A) if functional[b,t] else 0,   rho = exp(log_ratio)

    LA-GRPO of ATLAS, https://arxiv.org/abs/2605.15198, adds it to GRPO's loss, times a constant: their few tokens
    then count beyond their share, because the average is over them alone. `planning` marks them. Without any the
    term is 0.

    Fidelity: reconstructed.
    Degenerate: where every token is functional it is `ppo_clip`.
    """
    return ppo_clip(log_ratio, low, high, advantages, token_weights, mask & planning)


def counted(planning: Bool[Array, "B T"], mask: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """Marks the tokens that the surrogate is averaged over."""
    return mask & planning
