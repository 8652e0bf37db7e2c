"""Return, whitened over the batch."""

from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores import outcome_token_rewards, reward_to_go, whiten


def reinforce_pp(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    token_rewards: Float[Array, "P G T"] | None = None,
    *,
    gamma: float = 1.0,
    as_released: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Discounted sum of the rewards from each token on, shifted and scaled over the batch's tokens.

        R[p,g,t] = token_rewards[p,g,t] + gamma R[p,g,t+1],   A = (R - mean R) / sqrt(var R + 1e-8)

    REINFORCE++, https://arxiv.org/abs/2501.03262, where the token rewards hold a KL penalty on each token and the
    outcome on the last. Without `token_rewards` the outcome is all; with them `rewards` is not read. Mean and
    variance are over tokens, so long completions weigh more (`whiten`). A masked token inside a completion (a
    tool's output) is a step with reward 0. verl means to reset the return behind the end, but resets it at such
    a token too, so that nothing before it is told of the outcome: `as_released` does the same. The batch is the
    whole one under `jit` on a mesh; inside `shard_map` the shard, or with `axis_name` all shards. Not relative to
    the group: equal rewards give 0 only where the whole batch has them.

    Fidelity: code.
    Degenerate: without the whitening it is `reinforce`; a batch of one and the same return gives exactly 0.
    """
    if token_rewards is None:
        token_rewards = outcome_token_rewards(rewards, mask, valid)
    holes = "reset" if as_released else "discount"
    returns = reward_to_go(token_rewards, mask, valid, gamma=gamma, holes=holes)
    return whiten(returns, mask, valid, axis_name=axis_name)
