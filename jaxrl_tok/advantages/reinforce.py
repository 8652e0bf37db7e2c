"""Monte-Carlo return as the advantage."""

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores import outcome_token_rewards, reward_to_go, whiten


def reinforce(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    token_rewards: Float[Array, "P G T"] | None = None,
    *,
    gamma: float = 1.0,
    whitening: Literal["off", "verl", "openrlhf"] = "off",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Discounted sum of the rewards from each token on, without a baseline.

        A[p,g,t] = token_rewards[p,g,t] + gamma A[p,g,t+1]

    REINFORCE, Williams 1992, for language models Ahmadian et al. 2024, https://arxiv.org/abs/2402.14740. Without
    `token_rewards` the outcome is the reward of the last token; with them they hold the outcome too, and
    `rewards` is not read. A masked token inside a completion is a step with reward 0. `whitening` is the form in
    which the result is shifted and scaled over the batch's tokens (`whiten`), "openrlhf" for OpenRLHF's
    REINFORCE; "off" leaves it. Not relative to the group: equal rewards do not give 0.

    Fidelity: code. OpenRLHF's form.
    Degenerate: gamma = 1 and the outcome alone give every token the reward.
    """
    if token_rewards is None:
        token_rewards = outcome_token_rewards(rewards, mask, valid)
    returns = reward_to_go(token_rewards, mask, valid, gamma=gamma)
    if whitening == "off":
        return returns
    return whiten(returns, mask, valid, form=whitening, axis_name=axis_name)
