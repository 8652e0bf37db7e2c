"""Mean over completions of the mean over tokens."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.types import Mean


def sequence_mean_token_mean(loss: Float[Array, "B T"], mask: Bool[Array, "B T"], *, eps: float = 0.0) -> Mean:
    """Averages over the tokens of each completion, then over completions, so that each counts the same.

        mean_b ( sum_t m loss / (sum_t m + eps) )

    GRPO, eq. 3 of Shao et al. 2024, https://arxiv.org/abs/2402.03300. A completion without a trained token
    does not count; TRL counts it. verl adds `eps = 1e-8` to the length.
    """
    lengths = masked.count(mask, loss, axis=1)
    means = masked.total(loss, mask, axis=1) / jnp.maximum(lengths + eps, 1)
    return Mean(jnp.sum(means), masked.count(lengths > 0, loss))
