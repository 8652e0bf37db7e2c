"""Mean over tokens."""

from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.types import Mean


def token_mean(loss: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Mean:
    """Averages over all trained tokens of the batch, so that long completions count more.

        sum_{b,t} m loss / sum_{b,t} m

    DAPO, Yu et al. 2025, https://arxiv.org/abs/2503.14476. Totals and counts are added over microbatches and
    devices before the division; TRL's "bnpo" mode divides within each.

    Fidelity: code.
    Degenerate: without a trained token it is 0.
    """
    return Mean(masked.total(loss, mask), masked.count(mask, loss))
