"""Loss of a value model against labels."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def value_regression(
    values: Float[Array, "B T"],
    returns: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    kind: Literal["mse", "bce"] = "mse",
) -> Float[Array, "B T"]:
    """Distance of the predicted value of a token's prefix from its label.

        mse: (v - y)^2        bce: -(y log v + (1 - y) log(1 - v))

    TVM, https://arxiv.org/abs/2407.12863, whose labels are the share of right answers among the samples that begin
    with the same tokens (`prefix_tree_values`, `after`). "bce" takes values that are probabilities, and holds them
    away from 0 and 1 by the rounding of their type; its gradient ends there. The labels are constants. 0 where
    masked.

    Fidelity: paper.
    Degenerate: labels equal to the values give 0 with "mse", and the least that they can with "bce".
    """
    target = jax.lax.stop_gradient(jnp.where(mask, returns, 0))
    value = jnp.where(mask, values, 0.5)
    if kind == "mse":
        return jnp.where(mask, (value - target) ** 2, 0)
    margin = float(jnp.finfo(value.dtype).eps)
    value = jnp.clip(value, margin, 1 - margin)
    return jnp.where(mask, -(target * jnp.log(value) + (1 - target) * jnp.log1p(-value)), 0)
