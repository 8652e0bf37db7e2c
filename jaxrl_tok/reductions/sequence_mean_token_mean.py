"""Mean over completions of the mean over tokens."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.types import Mean


def sequence_mean_token_mean(
    loss: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    eps: float = 0.0,
    rows: Literal["trained", "all"] = "trained",
) -> Mean:
    """Averages over the tokens of each completion, then over completions, so that each counts the same.

        mean_b ( sum_t m loss / (sum_t m + eps) )

    GRPO, eq. 3 of Shao et al. 2024, https://arxiv.org/abs/2402.03300. A completion without a trained token
    does not count; with `rows = "all"` it does, as 0, as in TRL's "grpo" and verl's GMPO. verl adds `eps = 1e-8`
    to the length.

    Fidelity: code.
    Degenerate: where all completions have the same number of tokens it is `token_mean`.
    """
    lengths = masked.count(mask, loss, axis=1)
    means = masked.total(loss, mask, axis=1) / jnp.maximum(lengths + eps, 1)
    present = lengths > 0 if rows == "trained" else jnp.ones_like(lengths, bool)
    return Mean(jnp.sum(means), masked.count(present, loss))
