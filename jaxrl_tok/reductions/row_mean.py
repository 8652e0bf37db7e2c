"""Mean over completions of a loss that has one number for each."""

from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.types import Mean


def row_mean(loss: Float[Array, " B"], valid: Bool[Array, " B"]) -> Mean:
    """Averages a loss of completions over all that exist.

        sum_b valid loss / sum_b valid

    As in LaSeR, https://arxiv.org/abs/2510.14943, whose error counts unfinished completions as 0.

    Fidelity: code.
    Degenerate: without a valid completion it is 0.
    """
    return Mean(masked.total(loss, valid), masked.count(valid, loss))
