"""Mean 0 and spread 1 over the tokens of a batch."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def whiten(
    advantages: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    form: Literal["verl", "openrlhf"] = "verl",
    axis_name: str | None = None,
) -> Float[Array, "P G T"]:
    """Advantages shifted and scaled to mean 0 and variance 1 over the trained tokens of the batch.

        y = (A - mean A) / sqrt(var A + 1e-8)            form = "verl", var divides by N - 1
        y = (A - mean A) / sqrt(max(var A, 1e-8))        form = "openrlhf", var divides by N

    N is the number of trained tokens, so a long completion weighs more than a short one; verl's means divide by
    N + 1e-8, and so do these. Masked tokens get 0 (verl leaves the shifted padding there). Where all values are
    equal, one token included, the result is exactly 0. The batch is the whole one under `jit` on a mesh; inside
    `shard_map` the shard, or with `axis_name` all shards.
    """
    mask = mask if valid is None else mask & valid[:, :, None]
    x = jnp.where(mask, advantages, 0)
    n = masked.count(mask, x, axis_name=axis_name)
    divisor = jnp.maximum(n, 1) + (1e-8 if form == "verl" else 0)
    centred = x - masked.total(x, mask, axis_name=axis_name) / divisor
    variance = masked.total(centred**2, mask, axis_name=axis_name) / divisor
    square = variance * n / jnp.maximum(n - 1, 1) + 1e-8 if form == "verl" else jnp.maximum(variance, 1e-8)
    low, high = masked.bounds(x, mask, axis_name=axis_name)
    return jnp.where(mask & (low < high), centred / jnp.sqrt(square), 0)
