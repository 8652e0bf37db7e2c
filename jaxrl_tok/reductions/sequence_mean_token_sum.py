"""Mean over completions of the sum over tokens."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.types import Mean


def sequence_mean_token_sum(
    loss: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    rows: Literal["trained", "all"] = "trained",
) -> Mean:
    """Sums over the tokens of each completion, then averages over completions.

        mean_b sum_t m loss

    The policy gradient of whole completions, as in RLOO, https://arxiv.org/abs/2402.14740 (verl's
    "seq-mean-token-sum"). A completion without a trained token does not count; with `rows = "all"` it does, as 0.

    Fidelity: code.
    Degenerate: completions of one token give `token_mean`.
    """
    present = jnp.any(mask, axis=1) if rows == "trained" else jnp.ones_like(mask[:, 0])
    return Mean(masked.total(loss, mask), masked.count(present, loss))
