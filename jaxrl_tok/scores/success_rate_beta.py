"""A Beta distribution of the prompts' success rates."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


class BetaParameters(NamedTuple):
    """Parameters of a Beta distribution, both at least 1."""

    alpha: Float[Array, ""]
    beta: Float[Array, ""]


def success_rate_beta(
    rewards: Float[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    axis_name: str | None = None,
) -> BetaParameters:
    """Parameters of BNPO's normalising distribution, from the mean rewards of the batch's groups.

        mu, v = mean and variance over p of mean_g r[p]
        a = (mu (1 - mu) / v - 1) mu,   b = (mu (1 - mu) / v - 1) (1 - mu)
        alpha = max(1, 1 + a / 3),   beta = max(1, 1 + b / 3)

    BNPO, https://arxiv.org/abs/2506.02864: (a, b) is the Beta distribution with the moments of the success rates.
    Rewards lie in [0, 1]; v divides by the number of groups minus 1. One group, or groups with one mean (where the
    authors' code divides by 0), give alpha = beta = 1. Groups are those of the whole batch under `jit` on a
    mesh; inside `shard_map` of the shard, or with `axis_name` of all shards.
    """
    valid = jnp.ones_like(rewards, bool) if valid is None else valid
    rates, groups = masked.mean(rewards, valid, axis=1)[:, 0], jnp.any(valid, axis=1)
    mean = masked.mean(rates, groups, axis_name=axis_name)
    variance = masked.std(rates, groups, axis_name=axis_name) ** 2
    size = mean * (1 - mean) / variance - 1
    low, high = masked.bounds(rates, groups, axis_name=axis_name)
    alpha, beta = (jnp.where(low < high, jnp.maximum(1 + size * x / 3, 1), 1) for x in (mean, 1 - mean))
    return BetaParameters(alpha, beta)
