"""Advantage mixed with that of the policy's own verdict."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked


def laser(
    advantages: Float[Array, "P G T"],
    last_token_score: Float[Array, "P G"],
    finished: Bool[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    step: Int[Array, ""] | None = None,
    *,
    weight: float = 0.1,
    beta: float = 0.1,
    reference: float = -23.0,
    min_std: float = 0.1,
    warm_up: int = 200,
    singleton: Literal["zero", "raw"] = "zero",
    as_released: bool = False,
) -> Float[Array, "P G T"]:
    """The advantage, and a tenth of what the self-rewards of the last tokens say in its place.

        A'[p,g,t] = (1 - weight) A[p,g,t] + weight A_s[p,g]
        A_s = (s - mean_g s) / std_g s where std_g s > min_std, else A
        s[p,g] = clip(beta (last_token_score - reference), 0, 1), 0 if not finished

    LaSeR, https://arxiv.org/abs/2510.14943, with the loss `laser_mse`; `reference` is as there, `std` the unbiased
    one. The first `warm_up` updates, where `step` tells them, change nothing. In the released code an unfinished
    completion counts as 0 in mean and std, but its own s is read from its first token; `as_released` takes the
    `last_token_score` given for it there. A group of one keeps its advantage; `singleton = "raw"` gives it A_s = s,
    as the code does. 0 for a completion that is not valid.

    Fidelity: code.
    Degenerate: weight = 0 changes nothing.
    """
    valid = jnp.ones_like(finished) if valid is None else valid
    own = jnp.clip(beta * (jnp.where(valid, last_token_score, 0) - reference), 0, 1)
    score = jnp.where(finished & valid, own, 0)
    own = own if as_released else score
    std = masked.std(score, valid, axis=1)
    counts = (std > min_std) & ~masked.is_constant(score, valid, axis=1)
    judged = (own - masked.mean(score, valid, axis=1)) / std
    if singleton == "raw":
        alone = jnp.sum(valid, axis=1, keepdims=True) == 1
        judged, counts = jnp.where(alone, own, judged), counts | alone
    replaced = jnp.where(counts[:, :, None], judged[:, :, None], advantages)
    mixed = (1 - weight) * advantages + weight * replaced
    if step is not None:
        mixed = jnp.where(step < warm_up, advantages, mixed)
    return jnp.where(mask & valid[:, :, None], mixed, 0)
