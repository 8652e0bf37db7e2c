"""Tries of tokens laid out in depth-first order: what `attention` needs to know of them.

A token's subtree follows it without a gap, so `ends[k]`, one past the last token of k's subtree, holds the whole
structure: q descends from k, or is k, iff k <= q < ends[k].
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from jaxrl_tok.errors import DataError
from jaxrl_tok.types import Leaf


class PackedTree(NamedTuple):
    """The layout of packed tries."""

    ends: Leaf  # i32[..., T], one past the last token of the subtree; 0 for padding
    positions: Leaf  # i32[..., T], tokens before it on its path, 0 for padding


def tree_from_parents(parents: np.ndarray) -> PackedTree:
    """Returns the layout of one row of tries, given as pointers to parents; on the host, in NumPy.

        ends[k] = max({k + 1} and ends of k's children),   positions[k] = positions[parents[k]] + 1, 0 for a root

    Takes one step a branch, not one a token.

    Args:
        parents: i[T], the index of the token before, -1 for the first token of a trie, -2 for padding.

    Raises:
        DataError: the order is not depth-first: a parent comes later, or its subtree has ended.
    """
    size = len(parents)
    # Runs of tokens that follow each other. The first one starts one too, though -1 is also what marks a root.
    starts = np.flatnonzero((parents != np.arange(size) - 1) | (np.arange(size) == 0))
    ends, positions = np.zeros(size, np.int32), np.zeros(size, np.int32)
    for start, stop in zip(starts, np.append(starts[1:], size), strict=False):
        parent = int(parents[start])
        if parent >= start or (parent >= 0 and ends[parent] != size):
            raise DataError(
                f"parents[{start}] is {parent}, whose subtree does not reach there; expected depth-first order, with "
                "-1 for the first token of a trie and -2 for padding"
            )
        path = ends[max(parent, -1) + 1 : start]
        path[path == size] = start
        if parent > -2:
            ends[start:stop] = size
            depth = positions[parent] + 1 if parent >= 0 else 0
            positions[start:stop] = depth + np.arange(stop - start)
    return PackedTree(ends, positions)


def star_tree(prompts: Int[Array, "*B"], branches: Int[Array, "*B G"], size: int) -> PackedTree:
    """Returns the layout of prompts, each followed by its branches and padding up to `size`; works under `jit`.

    Args:
        prompts: tokens of each prompt.
        branches: tokens of each of its branches; 0 for one that is not there.
        size: T, tokens of a row. Tokens that do not fit are cut off.
    """
    stops = prompts[..., None] + jnp.cumsum(branches, axis=-1, dtype=prompts.dtype)
    total = stops[..., -1:]
    at = jnp.broadcast_to(jnp.arange(size, dtype=jnp.int32), (*prompts.shape, size))
    branch = jnp.sum(stops[..., None, :] <= at[..., None], axis=-1, dtype=jnp.int32)
    stop = jnp.take_along_axis(stops, jnp.minimum(branch, branches.shape[-1] - 1), axis=-1)
    begin = stop - jnp.take_along_axis(branches, jnp.minimum(branch, branches.shape[-1] - 1), axis=-1)
    prompt = prompts[..., None]
    inside = at < total
    ends = jnp.where(inside, jnp.where(at < prompt, total, stop), 0)
    positions = jnp.where(inside, jnp.where(at < prompt, at, prompt + at - begin), 0)
    return PackedTree(jnp.minimum(ends, size).astype(jnp.int32), positions.astype(jnp.int32))
