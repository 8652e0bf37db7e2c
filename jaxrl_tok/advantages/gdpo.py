"""Several rewards, each standardised within its group."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import standardised_rewards, whiten


def gdpo(
    reward_parts: Float[Array, "P G K"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    weights: tuple[float, ...] | list[float] | None = None,
    eps: float = 1e-4,
    aggregation: Literal["normalise_then_sum", "sum_then_normalise"] = "normalise_then_sum",
    batch: Literal["rows", "tokens", "off"] = "rows",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Weighted sum of a completion's rewards, each standardised within its group, and then over the batch.

        x[p,g] = sum_k w[k] (r[p,g,k] - mean_g r[p,k]) / (std_g r[p,k] + eps)
        A[p,g,t] = (x[p,g] - mean x) / (std x + eps)

    GDPO, https://arxiv.org/abs/2601.05242: combinations of rewards with one sum stay apart. `std` is the unbiased
    one, eps 1e-4 as in TRL's copy; the weights are 1 unless given. The second line is over completions
    (`batch = "rows"`, TRL), over tokens as `whiten` (the authors' fork of verl, which has eps = 1e-6 and no
    weights), or left out. `aggregation = "sum_then_normalise"` is what GDPO argues against: `grpo` of the weighted
    sum. A group in which every reward is constant gives exactly 0, but with "tokens", whose mean is not 0; so
    does a group of one. The batch is the whole one under `jit` on a mesh; inside `shard_map` the shard, or with
    `axis_name` all shards.

    Raises:
        ConfigError: there is not one weight for each reward.

    Fidelity: code.
    Degenerate: one reward and `batch = "off"` is `grpo`.
    """
    k = reward_parts.shape[2]
    if weights is not None and len(weights) != k:
        raise ConfigError(f"gdpo: weights has {len(weights)} numbers, but there are {k} rewards")
    valid = jnp.ones(reward_parts.shape[:2], bool) if valid is None else valid
    weighted = [(1.0 if weights is None else weights[i], reward_parts[:, :, i]) for i in range(k)]
    if aggregation == "sum_then_normalise":
        total = sum((w * r for w, r in weighted[1:]), start=weighted[0][0] * weighted[0][1])
        return masked.per_token(standardised_rewards(total, valid, eps=eps), mask)
    scores = [w * standardised_rewards(r, valid, eps=eps) for w, r in weighted]
    x = sum(scores[1:], start=scores[0])
    if batch == "tokens":
        return whiten(masked.per_token(x, mask), mask, valid, axis_name=axis_name)
    if batch == "rows":
        # Every group's scores sum to 0, so the mean is a rounding: it must not reach a group that has no difference.
        differ = jnp.stack([~masked.is_constant(r, valid, axis=1) for _, r in weighted]).any(axis=0)
        mean, std = (f(x, valid, axis_name=axis_name) for f in (masked.mean, masked.std))
        x = jnp.where(valid & differ, (x - mean) / (std + eps), 0)
    return masked.per_token(x, mask)
