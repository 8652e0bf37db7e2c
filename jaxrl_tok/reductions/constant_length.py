"""Sum over tokens over a constant length."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.types import Mean


def constant_length(
    loss: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    length: int | None = None,
    rows: Literal["trained", "all", "none"] = "trained",
) -> Mean:
    """Divides the sum over tokens by a constant length and the number of completions.

        sum_{b,t} m loss / (length B)

    Dr. GRPO, Liu et al. 2025, https://arxiv.org/abs/2503.20783: with no division by a completion's own
    length, a token's weight does not depend on how long its completion is. `length` is the limit on
    completions; unset it is T, the width of the arrays. `rows = "trained"` lets B count the completions with
    a trained token, `"all"` every row, as TRL's "dr_grpo" does. `"none"` leaves B out, as verl's
    "seq-mean-token-sum-norm" does: the loss grows with the batch, and the count is one constant, whatever part of
    the batch is at hand, so parts of a batch share that of the whole.

    Fidelity: code.
    Degenerate: where every completion has `length` tokens it is `token_mean`.
    """
    constant = mask.shape[1] if length is None else length
    if rows == "none":
        return Mean(masked.total(loss, mask), jnp.full((), constant, loss.dtype))
    present = jnp.any(mask, axis=1) if rows == "trained" else jnp.ones_like(mask[:, 0])
    return Mean(masked.total(loss, mask), masked.count(present, loss) * constant)
