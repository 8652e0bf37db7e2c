"""Centred reward over the density of the prompt's success rate."""

import jax.numpy as jnp
from jax.scipy.special import betaln
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.scores import centred_rewards, success_rate_beta


def bnpo(
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Reward minus the group's mean, over a Beta density of that mean, given to every token.

        A[p,g,t] = (r[p,g] - m[p]) min(1 / Beta(m[p]; alpha, beta), 1e6),   m[p] = mean_g r[p]

    BNPO, https://arxiv.org/abs/2506.02864, with (alpha, beta) from the batch's success rates
    (`success_rate_beta`): rates that the batch has many of count less. Rewards lie in [0, 1]. Equal rewards and a
    group of one give exactly 0; one group, or groups with one mean, give `dr_grpo` (the authors' code NaN). No
    relative of the reduction that TRL calls "bnpo", which is `token_mean`. The batch is the whole one under `jit`
    on a mesh; inside `shard_map` the shard, or with `axis_name` all shards.

    Fidelity: code.
    Degenerate: alpha = beta = 1 is `dr_grpo`; 3/2 is GRPO with the population's deviation, up to a constant.
    """
    alpha, beta = success_rate_beta(rewards, valid, axis_name=axis_name)
    centred = centred_rewards(rewards, valid)
    mean = masked.mean(rewards, jnp.ones_like(rewards, bool) if valid is None else valid, axis=1)
    # A group with a difference has its mean inside (0, 1); the others, at its ends, have nothing to scale.
    tiny = jnp.finfo(mean.dtype).eps
    mean = jnp.clip(mean, tiny, 1 - tiny)
    rarity = betaln(alpha, beta) - (alpha - 1) * jnp.log(mean) - (beta - 1) * jnp.log1p(-mean)
    return masked.per_token(centred * jnp.exp(jnp.minimum(rarity, jnp.log(1e6).astype(mean.dtype))), mask)
