"""What every backend of token scoring takes and gives.

A backend is two functions, of which the second may be `chunked.backward`:

    forward(rows, head, options, limit=None) -> Sums
    backward(rows, head, coefficients, options, limit=None) -> (gradient of rows.hidden, of head or None)

`Sums` over parts of the vocabulary merge into those of the whole, and all results follow from them. A backend
knows nothing of meshes: `parts` hands it the columns that a device has, or one gathered tile of them. The
gradient by the logit z_v of a kept token, with log p_v = z_v - max_logit - log_sum, is

    G[n, v] = p_v (constant[n] + slope[n] log p_v) + sum_k target[n, k] 1[v = targets[n, k]]

so three numbers a token hold whatever the loss asks for.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxrl_tok.types import Leaf

Tree = TypeVar("Tree")

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
    # What is asked for besides the results that are always there, by its name in the results; and the optional
    # fields of `Sums` that it takes.
    statistics: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    # Columns of the whole head, over all shards, that are tokens; None if all are.
    vocabulary: int | None = None
    # Mesh axes, inside `shard_map`: the one that the vocabulary is split over, and the one that D is.
    vocab_axis: str | None = None
    fsdp_axis: str | None = None

    @property
    def columns(self) -> int:
        """The axis of the head that runs over the vocabulary."""
        return self.layout.index("v")


class Rows(NamedTuple):
    """The tokens of a scoring problem, one a row; float vectors are in the accumulation type.

    The distribution is that over the kept tokens: the target, and those with a logit of at least `cut`.
    """

    hidden: Leaf  # [N, D]
    targets: Leaf  # i32[N], or i32[N, K] in a backward pass; column of this head, any other number for none
    inv_temperature: Leaf  # [N]
    cut: Leaf  # [N], or None to keep all; only with i32[N] targets
    pivot: Leaf = None  # [N], the target's logit, where an extra compares with it


class Sums(NamedTuple):
    """What one pass over the vocabulary, or over a part of it, leaves of the logits z of each row.

    Fields after the first four are None unless `Options.extras` names them.
    """

    max_logit: Leaf  # [N], m = max_v z_v
    sum_exp: Leaf  # [N], sum_v exp(z_v - m)
    sum_exp_shifted: Leaf  # [N], sum_v exp(z_v - m) (z_v - m)
    target_logit: Leaf  # [N], z of the target, 0 where it lies in another part
    argmax: Leaf = None  # i32[N], the first column of this head with z_v = m
    second_logit: Leaf = None  # [N], the largest z_v of the other columns, NEG where there is none
    sum_logits: Leaf = None  # [N], sum_v z_v
    sum_exp2: Leaf = None  # [N], sum_v exp(z_v - m)^2
    sum_exp2_shifted: Leaf = None  # [N], sum_v exp(z_v - m)^2 (z_v - m)
    sum_exp_shifted2: Leaf = None  # [N], sum_v exp(z_v - m) (z_v - m)^2
    count_above: Leaf = None  # [N], sum_{v != target} 1[z_v > pivot], as a float
    sum_exp_above: Leaf = None  # [N], sum_{v != target} exp(z_v - m) 1[z_v > pivot]


class Coefficients(NamedTuple):
    """The numbers of the gradient by the logits, for each row (see the top of this module)."""

    max_logit: Leaf  # [N]
    log_sum: Leaf  # [N], log sum_v exp(z_v - max_logit)
    constant: Leaf  # [N]
    slope: Leaf  # [N]
    target: Leaf  # [N] or [N, K], as the targets


def scaled(part: Sums, max_logit: Array) -> Sums:
    """Returns sums that are relative to another maximum, which is not below their own."""
    shift = part.max_logit - max_logit
    scale = jnp.exp(shift)
    changed: dict[str, Array] = {"max_logit": max_logit, "sum_exp": scale * part.sum_exp}
    changed["sum_exp_shifted"] = scale * (part.sum_exp_shifted + shift * part.sum_exp)
    if part.sum_exp2 is not None:
        changed["sum_exp2"] = scale * scale * part.sum_exp2
    if part.sum_exp2_shifted is not None:
        changed["sum_exp2_shifted"] = scale * scale * (part.sum_exp2_shifted + shift * part.sum_exp2)
    if part.sum_exp_shifted2 is not None:
        square = part.sum_exp_shifted2 + shift * (2 * part.sum_exp_shifted + shift * part.sum_exp)
        changed["sum_exp_shifted2"] = scale * square
    if part.sum_exp_above is not None:
        changed["sum_exp_above"] = scale * part.sum_exp_above
    return part._replace(**changed)


# The fields of `Sums` that add up once they are relative to one maximum.
ADDITIVE = tuple(name for name in Sums._fields if name not in ("max_logit", "argmax", "second_logit"))


def merge(a: Sums, b: Sums) -> Sums:
    """Returns the sums over the union of two disjoint parts of the vocabulary; columns are numbered alike."""
    max_logit = jnp.maximum(a.max_logit, b.max_logit)
    one, other = scaled(a, max_logit), scaled(b, max_logit)
    added = {name: getattr(one, name) + getattr(other, name) for name in ADDITIVE if getattr(a, name) is not None}
    if a.argmax is not None:
        first = jnp.where(a.max_logit > b.max_logit, a.argmax, jnp.minimum(a.argmax, b.argmax))
        added["argmax"] = jnp.where(b.max_logit > a.max_logit, b.argmax, first)
    if a.second_logit is not None:
        beaten = jnp.minimum(a.max_logit, b.max_logit)
        added["second_logit"] = jnp.maximum(beaten, jnp.maximum(a.second_logit, b.second_logit))
    return a._replace(max_logit=max_logit, **added)


def nothing(rows: Rows, options: Options) -> Sums:
    """Returns the sums over no columns: what `merge` leaves alone."""
    zero = jnp.zeros_like(rows.inv_temperature)
    named: dict[str, Array] = dict.fromkeys(options.extras, zero)
    if "argmax" in named:
        named["argmax"] = jnp.zeros_like(rows.targets)
    if "second_logit" in named:
        named["second_logit"] = zero + NEG
    return Sums(zero + NEG, zero, zero, zero, **named)


def sweep(
    step: Callable[[Tree, Any, int], Tree], total: Tree, vocabulary: int, block: int, rest_first: bool = False
) -> Tree:
    """Folds step(total, start, size) over the blocks of the vocabulary.

    What does not fill a block is a smaller step at the end: no column is visited twice, none is padding, and
    every start is a multiple of the block. Or it is the first step: what the loop leaves is then the result, and a
    large one, as the gradient of hidden, is in memory once and not twice.
    """
    full, rest = divmod(vocabulary, block)
    if rest_first and rest:
        return sweep(step, step(total, full * block, rest), full * block, block) if full else step(total, 0, rest)
    if full == 1:
        total = step(total, 0, block)
    elif full > 1:
        starts = block * jnp.arange(full, dtype=jnp.int32)
        total, _ = jax.lax.scan(lambda total, start: (step(total, start, block), None), total, starts)
    return step(total, full * block, rest) if rest else total


def columns_of(head: Array, start: Array | int, size: int, options: Options) -> Array:
    """Returns a block of the head's columns."""
    return jax.lax.dynamic_slice_in_dim(head, start, size, options.columns)
