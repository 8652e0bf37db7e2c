"""Advantage shaped by the policy's certainty, of the completion and of the token."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import standardised_rewards


def ucas(
    advantages: Float[Array, "P G T"],
    target_logit: Float[Array, "P G T"],
    sum_logits: Float[Array, "P G T"],
    lse: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    vocab_size: int,
    positive: float = 0.25,
    negative: float = 0.35,
    penalty: float = 0.05,
    eps: float = 1e-6,
    singleton: Literal["zero", "raw"] = "zero",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Less credit to certain completions, more blame to certain mistakes, and a penalty on certain tokens.

        S[p,g,t] = A exp(-positive z[p,g]) where A > 0, A exp(negative z[p,g]) elsewhere
        A'[p,g,t] = S - penalty l[p,g,t], and at least 0 where S > 0
        z = (C - mean_g C) / (std_g C + eps),   C[p,g] = sum_t (lse - sum_logits / vocab_size)
        l = (target_logit - min) / (max - min + eps) over the trained tokens of the batch, 1/2 if all are equal

    UCAS, https://arxiv.org/abs/2510.10649, on GRPO's advantage. C adds up KL(uniform || policy) + log V over the
    tokens, so it is mostly length; `std` is the unbiased one. The token's term takes the logit itself, before the
    temperature, and so changes when all logits are shifted. Where A = 0 the penalty remains: groups of equal rewards
    are pushed down. `sum_logits` and `lse` are of the logits at the sampling temperature, over `vocab_size` entries.
    A group with one completion has z = 0, or with `singleton = "raw"` C / (1 + eps); one without a trained token
    counts in no statistic. Inside `shard_map` the batch is the shard, or with `axis_name` all shards.

    Raises:
        ConfigError: `vocab_size` is below 1.

    Fidelity: code.
    Degenerate: positive = negative = penalty = 0 changes nothing.
    """
    if vocab_size < 1:
        raise ConfigError(f"ucas: vocab_size = {vocab_size!r} must be at least 1")
    mask = mask if valid is None else mask & valid[:, :, None]
    present = jnp.any(mask, axis=2)
    certainty = jnp.sum(jnp.where(mask, lse - sum_logits / vocab_size, 0), axis=2)
    z = standardised_rewards(certainty, present, eps=eps, singleton=singleton)[:, :, None]
    advantages, target_logit = jnp.where(mask, advantages, 0), jnp.where(mask, target_logit, 0)
    shaped = advantages * jnp.exp(jnp.where(advantages > 0, -positive * z, negative * z))
    low, high = masked.bounds(target_logit, mask, axis_name=axis_name)
    level = jnp.where(high > low, (target_logit - low) / (high - low + eps), 0.5)
    lowered = shaped - penalty * level
    return jnp.where(mask, jnp.where(shaped > 0, jnp.maximum(lowered, 0), lowered), 0)
