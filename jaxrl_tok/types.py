"""The frozen pytrees that pass between the parts, with the shape of each field.

Fields are typed `Leaf`, not by shape: JAX rebuilds pytrees with placeholders, specs and tracers in
place of arrays. The comment beside each field is its contract; functions that take arrays check shapes.
"""

import dataclasses
from typing import Any, TypeAlias, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp

Leaf: TypeAlias = Any
Class = TypeVar("Class", bound=type)


@dataclass_transform(frozen_default=True)
def pytree(cls: Class) -> Class:
    """Makes a frozen dataclass of a class, and a pytree of its instances, all fields being children."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(cls))


@pytree
class Mean:
    """A mean that is not yet divided, so that parts of a batch can be added first."""

    total: Leaf  # f32[]
    count: Leaf  # f32[]

    def __add__(self, other: "Mean") -> "Mean":
        """Joins two parts of one batch."""
        return Mean(self.total + other.total, self.count + other.count)

    def value(self) -> Leaf:
        """Returns total / count, and 0 for an empty mean."""
        return jnp.where(self.count > 0, self.total / jnp.where(self.count > 0, self.count, 1), 0)


@pytree
class Prompts:
    """One batch of prompts, on device."""

    tokens: Leaf  # i32[P, S], padded on the left
    lengths: Leaf  # i32[P]
    ids: Leaf  # i32[P], index of the prompt in its data set


@pytree
class Sampling:
    """How each request is sampled; arrays, so that changing them compiles nothing."""

    limit: Leaf  # i32[P, G], most tokens of the completion
    temperature: Leaf  # f32[P, G], 0 = greedy
    top_k: Leaf  # i32[P, G], 0 = off
    top_p: Leaf  # f32[P, G], 1 = off
    min_p: Leaf  # f32[P, G], 0 = off


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class LeftOut:
    """The tokens that were never drawn; a constant of the programs that know it, and no array."""

    ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()  # besides, before a completion has `minimum` tokens
    minimum: int = 0


@pytree
class Rollouts:
    """Completions of one batch of prompts and what the sampler knew of them."""

    tokens: Leaf  # i32[P, G, T]
    mask: Leaf  # bool[P, G, T], the sampled tokens, the end token included
    truncated: Leaf  # bool[P, G], stopped by its limit
    sampler_logprobs: Leaf  # f32[P, G, T], of the distribution that was sampled
    keep_thresholds: Leaf  # f32[P, G, T], log-prob under which a token was filtered out, -inf = no filter
    temperature: Leaf  # f32[P, G], or [P, G, T] where each token has its own
    entropy: Leaf = None  # f32[P, G, T], of the policy's own distribution; there where temperatures go by it


@pytree
class Tries:
    """The distinct tokens of prompts and their completions: R rows of S tokens, N of which are scored.

    In a row lie the tries of several prompts, one after the other, each in depth-first order.
    """

    tokens: Leaf  # i32[R, S]
    ends: Leaf  # i32[R, S], one past the last token of the token's subtree; 0 for padding
    positions: Leaf  # i32[R, S], tokens before it on its path
    node: Leaf  # i32[R, N], the column of a scored token
    before: Leaf  # i32[R, N], the column of the token before it
    place: Leaf  # i32[R, N], tokens of its completion before it
    temperature: Leaf  # f32[R, N], that it was sampled with
    keep_thresholds: Leaf  # f32[R, N], or None when the sampler had no filter
    real: Leaf  # bool[R, N]
    row: Leaf  # i32[P], where the prompt's trie lies
    scored: Leaf  # i32[P, G, T], the number of the completion's token among those that are scored of its row

    def of_completions(self, x: Leaf) -> Leaf:
        """Returns what the completions have of `x` [R, N, ...], by token: [P, G, T, ...]; masked ones have anything."""
        own = x[self.row]
        at = self.scored.reshape(*self.row.shape, -1, *(1,) * (x.ndim - 2))
        return jnp.take_along_axis(own, at, axis=1).reshape(*self.scored.shape, *x.shape[2:])


@pytree
class Probes:
    """K rollouts each from M states inside of each completion. Their rewards are no completion's.

    Greedy completions of the prompts are of this form too, with G = M = K = 1.
    """

    cuts: Leaf  # i32[P, G, M], tokens of the completion before the state, -1 = no such state
    tokens: Leaf  # i32[P, G, M, K, T]
    lengths: Leaf  # i32[P, G, M, K], 0 = not sampled


@pytree
class Sampled:
    """What a method of rollouts gives for one batch of prompts.

    A completion without a token does not exist: a tree has fewer leaves where its nodes end early.
    """

    rollouts: Rollouts
    fields: dict[str, Leaf]  # besides, by their names in docs/notation.md, [P, ...]
    tokens: Leaf  # i32[P], how many were sampled: what several completions share counts once
    probes: Any = None  # Probes


@pytree
class Batch:
    """What the step stage reads: whole groups, rows still `[P, G, ...]`."""

    prompts: Prompts
    fields: dict[str, Leaf]  # by name in docs/notation.md, [P, G], [P, G, T] or scalar
    temperature: Leaf  # f32[P, G], or [P, G, T] where each token has its own
    keep_thresholds: Leaf  # f32[P, G, T], or None when the sampler had no filter
    tries: Tries | None = None  # where the groups are scored as tries
    left_out: LeftOut | None = None  # what the sampler did not draw from


@pytree
class TrainState:
    """All that a checkpoint holds on device.

    `params` are what the optimizer changes. With adapters `frozen` is what it does not: each has None where the other
    has a leaf, and a checkpoint leaves out a frozen part that can be read from the weights it came from.
    """

    params: Any
    opt_state: Any
    updates: Leaf  # i32[], optimizer steps taken with this opt_state
    ref_params: Any  # the frozen reference, or None where no slot reads it, or it is the frozen part itself
    method_state: Any  # of stateful methods, by slot
    frozen: Any = None

    @property
    def model_params(self) -> Any:
        """All parameters of the model in one tree."""
        return joined(self.params, self.frozen)


def joined(trained: Any, frozen: Any) -> Any:
    """Returns the tree of which each part has None where the other has a leaf; `frozen` may be None as a whole."""
    if frozen is None:
        return trained
    return jax.tree.map(lambda x, y: y if x is None else x, trained, frozen, is_leaf=lambda x: x is None)
