"""Advantages of episodes, and of their steps among those from the same state."""

from typing import Literal

from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.advantages.dr_grpo import dr_grpo
from jaxrl_tok.advantages.grpo import grpo
from jaxrl_tok.scores import anchor_state_advantages, discounted_step_returns, spread


def gigpo(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    step_rewards: Float[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    step_states: Int[Array, "P G S"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 0.95,
    omega: float = 1.0,
    use_std: bool = False,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """Group-relative advantage of the trajectory, plus that of the step among the group's steps from an equal state.

        A[p,g,t] = A_E[p,g] + omega A_S[p,g,k],   k = segment_ids[p,g,t]
        A_E = r - mean_g r,   A_S = R[p,g,k] - mean of R over the steps with equal step_states,   R = discounted returns

    GiGPO, Feng et al. 2025, https://arxiv.org/abs/2505.10978, with its gamma and omega. `rewards` are the
    trajectories' total returns. `use_std` divides both parts by their std + eps, unbiased; the authors' code has it
    off by default ("mean_norm"). States are equal by id; clusters of similar observations are the caller's ids. A
    state that is unique has A_S = 0 (`anchor_state_advantages`); a token outside of steps has A_E alone. A group of
    one has A_E = 0, or with `singleton = "raw"` its reward (over 1 + eps with `use_std`), as in the authors' code;
    A_S remains. With equal rewards A_E is exactly 0, and A_S where the returns from each state are equal too.

    Fidelity: code.
    Degenerate: omega = 0, or no state twice, is `dr_grpo`, with `use_std` `grpo`.
    """
    if valid is not None:
        mask, step_mask = mask & valid[:, :, None], step_mask & valid[:, :, None]
    if use_std:
        episode = grpo(rewards, mask, valid, eps=eps, singleton=singleton)
    else:
        episode = dr_grpo(rewards, mask, valid, singleton=singleton)
    returns = discounted_step_returns(step_rewards, step_mask, gamma=gamma)
    step = anchor_state_advantages(returns, step_states, step_mask, use_std=use_std, eps=eps)
    return episode + omega * spread(segment_ids, step, mask)
