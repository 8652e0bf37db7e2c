"""What every backend of token scoring takes and gives.

A backend is two functions:

    forward(rows, head, options) -> Sums
    backward(rows, head, coefficients, options) -> (gradient of rows.hidden, gradient of head or None)

`Sums` over parts of the vocabulary merge into those of the whole, and all results follow from them. The
gradient by the logit z_v of a kept token, with log p_v = z_v - max_logit - log_sum, is

    G[n, v] = p_v (constant[n] + slope[n] log p_v) + target[n] 1[v = targets[n]]

so three numbers a token hold whatever the loss asks for.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrl_tok.types import Leaf

# Stands for -inf, but finite: exp(NEG - m) and 0 * NEG are 0, and no logit comes near it.
NEG = -1e30

Layout = Literal["dv", "vd"]


def wider(*arrays: Array) -> np.dtype:
    """Returns the narrowest type that holds the values of all arrays, under any setting of promotion."""
    with jax.numpy_dtype_promotion("standard"):
        return jnp.result_type(*(x.dtype for x in arrays))


def unfused(z: Array) -> Array:
    """Returns logits as they are, rounded once.

    The maximum changes nothing, but keeps a compiler from fusing the product that made z into a subtraction
    later on. One logit would have two values then: unrounded there, and rounded in its row's maximum.
    """
    return jnp.maximum(z, NEG)


class Options(NamedTuple):
    """The static half of a scoring problem."""

    layout: Layout
    soft_cap: float | None
    head_grad: bool
    block: int | None

    @property
    def vocab_axis(self) -> int:
        """The axis of the head that runs over the vocabulary."""
        return self.layout.index("v")


class Rows(NamedTuple):
    """The tokens of a scoring problem, one a row; float vectors are in the accumulation type.

    The distribution is that over the kept tokens: the target, and those with a logit of at least `cut`.
    """

    hidden: Leaf  # [N, D]
    targets: Leaf  # i32[N]
    inv_temperature: Leaf  # [N]
    cut: Leaf  # [N], or None to keep all


class Sums(NamedTuple):
    """What one pass over the vocabulary, or over a part of it, leaves of the logits z of each row."""

    max_logit: Leaf  # [N], m = max_v z_v
    sum_exp: Leaf  # [N], sum_v exp(z_v - m)
    sum_exp_shifted: Leaf  # [N], sum_v exp(z_v - m) (z_v - m)
    target_logit: Leaf  # [N], z of the target, 0 where it lies in another part


class Coefficients(NamedTuple):
    """The numbers of the gradient by the logits, for each row (see the top of this module)."""

    max_logit: Leaf  # [N]
    log_sum: Leaf  # [N], log sum_v exp(z_v - max_logit)
    constant: Leaf  # [N]
    slope: Leaf  # [N]
    target: Leaf  # [N]
