"""Advantages from a critic's values."""

from typing import Literal

from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.scores import generalized_advantages, prefix_tree_values, whiten


def gae(
    token_rewards: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    holes: Literal["skip", "zero"] = "skip",
    whitening: Literal["off", "verl", "openrlhf"] = "verl",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Generalised advantage estimate, shifted and scaled over the batch's tokens.

        A[p,g,t] = d[p,g,t] + gamma lam A[p,g,t'],   d[p,g,t] = r[p,g,t] + gamma V[p,g,t'] - V[p,g,t]

    GAE, Schulman et al. 2015, https://arxiv.org/abs/1506.02438, the advantage of PPO; t' is the next token, with 0
    behind the last. The token rewards hold the outcome on the last token (`outcome_token_rewards`). `holes`: a
    masked token inside a completion is no step ("skip", verl) or one of reward and value 0 ("zero", TRL and
    OpenRLHF). gamma = lam = 1 as in verl; PPO often has lam = 0.95. The critic's targets, `returns`, are
    A + V, or with `target` the labels of TVM. `whitening`: the form (`whiten`), or "off"; over the whole batch under
    `jit` on a mesh, inside `shard_map` over the shard, or with `axis_name` over all shards. A critic of the state, not
    of the group: equal rewards do not give 0.

    Fidelity: code. The forms of verl, TRL and OpenRLHF.
    Degenerate: lam = 1 and values of 0 give `reinforce`; lam = 0 gives the temporal difference.
    """
    advantages, _ = generalized_advantages(token_rewards, values, mask, valid, gamma=gamma, lam=lam, holes=holes)
    if whitening == "off":
        return advantages
    return whiten(advantages, mask, valid, form=whitening, axis_name=axis_name)


def returns(
    token_rewards: Float[Array, "P G T"],
    values: Float[Array, "P G T"],
    tokens: Int[Array, "P G T"],
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    gamma: float = 1.0,
    lam: float = 1.0,
    holes: Literal["skip", "zero"] = "skip",
    target: Literal["gae", "prefix_tree"] = "gae",
) -> Float[Array, "P G T"]:
    """Returns what the critic's value before each token is to be.

    "gae": A + V before A is whitened. "prefix_tree": the mean reward of the group's completions that begin with the
    same tokens (`prefix_tree_values`, `before`), the token-supervised value labels of TVM,
    https://arxiv.org/abs/2407.12863.
    """
    if target == "prefix_tree":
        return prefix_tree_values(tokens, rewards, mask, valid).before
    return generalized_advantages(token_rewards, values, mask, valid, gamma=gamma, lam=lam, holes=holes).returns
