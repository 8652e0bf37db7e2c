"""Advantages from a critic's values and the token rewards of a policy that was trained on preferences."""

from typing import Literal

from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores import generalized_advantages, rto_token_rewards, whiten


def rto(
    rewards: Float[Array, "P G"],
    old_logprobs: Float[Array, "P G T"],
    ref_logprobs: Float[Array, "P G T"],
    dpo_logprobs: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    dpo_coef: float = 0.05,
    dpo_clip: float = 0.05,
    kl_coef: float = 0.01,
    reward_clip: float = 10.0,
    whitening: Literal["off", "verl", "openrlhf"] = "openrlhf",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Generalised advantage estimate on token rewards from a preference-trained policy, whitened over the batch.

        A[p,g,t] = gae(y, V)[p,g,t]
        y = clip(dpo_coef (dpo - ref), -c, c) - kl_coef (old - ref) + 1[t is last] r

    RTO, Zhong et al. 2024, https://arxiv.org/abs/2404.18922: `rto_token_rewards`, which says what the constants are,
    under `gae`, which says the rest. Not relative to the group: equal rewards do not give 0.

    Fidelity: code.
    Degenerate: dpo_coef = kl_coef = 0 and rewards within reward_clip give `gae` of the outcome.
    """
    constants = {"dpo_coef": dpo_coef, "dpo_clip": dpo_clip, "kl_coef": kl_coef, "reward_clip": reward_clip}
    token_rewards = rto_token_rewards(rewards, old_logprobs, ref_logprobs, dpo_logprobs, mask, valid, **constants)
    advantages, _ = generalized_advantages(token_rewards, values, mask, valid, gamma=gamma, lam=lam)
    if whitening == "off":
        return advantages
    return whiten(advantages, mask, valid, form=whitening, axis_name=axis_name)


def returns(
    rewards: Float[Array, "P G"],
    old_logprobs: Float[Array, "P G T"],
    ref_logprobs: Float[Array, "P G T"],
    dpo_logprobs: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 0.95,
    dpo_coef: float = 0.05,
    dpo_clip: float = 0.05,
    kl_coef: float = 0.01,
    reward_clip: float = 10.0,
) -> Float[Array, "P G T"]:
    """Returns what the critic's value before each token is to be: A + V before A is whitened."""
    constants = {"dpo_coef": dpo_coef, "dpo_clip": dpo_clip, "kl_coef": kl_coef, "reward_clip": reward_clip}
    token_rewards = rto_token_rewards(rewards, old_logprobs, ref_logprobs, dpo_logprobs, mask, valid, **constants)
    return generalized_advantages(token_rewards, values, mask, valid, gamma=gamma, lam=lam).returns
