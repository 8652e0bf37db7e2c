"""Values of the states in the prefix tree that a group's completions form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class PrefixTreeValues(NamedTuple):
    """Mean rewards over the completions that share a prefix, and how many these are."""

    before: Float[Array, "P G T"]  # of the state before the token
    after: Float[Array, "P G T"]  # of the state after it
    count_before: Float[Array, "P G T"]
    count_after: Float[Array, "P G T"]


def prefix_tree_values(
    tokens: Int[Array, "P G T"],
    rewards: Float[Array, "P G"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
) -> PrefixTreeValues:
    """Mean reward of the group's completions that share each token's prefix, before and after the token.

        shared[g,k] = number of leading tokens that completions g and k have in common
        after[p,g,t] = mean of r[p,k] over k with shared[g,k] > t;   before: with shared[g,k] >= t

    TEMPO, https://arxiv.org/abs/2509.18314; `after` is also the label of TVM,
    https://arxiv.org/abs/2407.12863. A masked token ends the prefix of its completion: behind a hole (a
    tool's output) no value is estimated, and values and counts are 0 there, as on masked tokens and in
    completions that are not valid. Before the first token the whole group shares the prefix. Sums run over
    the group in one fixed order, so where a token does not change the set of sharers, `before` and `after`
    are equal to the last bit.
    """
    if valid is not None:
        mask = mask & valid[:, :, None]
        rewards = jnp.where(valid, rewards, 0)
    shared = _shared_prefix(tokens, mask)
    if valid is not None:  # a missing completion shares not even the empty prefix
        shared = jnp.where(valid[:, None, :], shared, -1)
    total, count = _sums_by_depth(shared, rewards, tokens.shape[2])
    value = total / jnp.maximum(count, 1)
    ends = (value[:, :, :-1], value[:, :, 1:], count[:, :, :-1], count[:, :, 1:])
    return PrefixTreeValues(*(jnp.where(mask, x, 0) for x in ends))


def _sums_by_depth(
    shared: Int[Array, "P G G"], rewards: Float[Array, "P G"], length: int
) -> tuple[Float[Array, "P G T1"], Float[Array, "P G T1"]]:
    """Sum of the rewards and number of the completions that share at least 0, 1, ... `length` tokens.

    One completion after the other, so that no array has two group axes and tokens.
    """
    depth = jnp.arange(length + 1, dtype=shared.dtype)[None, None]

    def of_completion(shared: Int[Array, "P G"], reward: Float[Array, " P"]) -> tuple[Array, Array]:
        shares = shared[:, :, None] >= depth
        return jnp.where(shares, reward[:, None, None], 0), shares.astype(rewards.dtype)

    def add(sums: tuple[Array, Array], completion: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        return jax.tree.map(jnp.add, sums, of_completion(*completion)), None

    first = of_completion(shared[:, :, 0], rewards[:, 0])
    rest = (jnp.moveaxis(shared[:, :, 1:], 2, 0), rewards[:, 1:].T)
    return jax.lax.scan(add, first, rest, unroll=4)[0]


def _shared_prefix(tokens: Int[Array, "P G T"], mask: Bool[Array, "P G T"]) -> Int[Array, "P G G"]:
    """Length of the common unmasked prefix of each pair of a group's completions."""
    length = tokens.shape[2]
    time = jnp.arange(length, dtype=jnp.int32)
    first = jnp.where(mask, tokens, -1)
    second = jnp.where(mask, tokens, -2)  # so that masked tokens differ even from themselves

    def with_completion(other: Int[Array, "P T"]) -> Int[Array, "P G"]:
        same = first == other[:, None, :]
        return jnp.min(jnp.where(same, length, time), axis=2, initial=length)

    return jnp.moveaxis(jax.lax.map(with_completion, jnp.moveaxis(second, 1, 0)), 0, 2)
