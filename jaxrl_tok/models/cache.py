"""Keys and values of what was already read, and which of them a slot sees."""

from typing import Any

import jax.numpy as jnp

from jaxrl_tok.types import Leaf, pytree


@pytree
class KVCache:
    """Keys and values of one layer, a row for each prompt or slot; or of several, with a leading axis of layers.

    Heads come before positions: the products of attention then read a head's keys in one piece.
    """

    k: Leaf  # [rows, kv_heads, length, head_dim] or [layers, rows, kv_heads, length, head_dim]
    v: Leaf

    @classmethod
    def empty(
        cls, rows: int, kv_heads: int, length: int, head_dim: int, dtype: str, layers: int | None = None
    ) -> "KVCache":
        """Returns a cache of zeros; what a slot held before is hidden by position, so it is never cleared."""
        shape = (() if layers is None else (layers,)) + (rows, kv_heads, length, head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def write(self, at: Leaf, k: Leaf, v: Leaf, layer: Leaf = None) -> "KVCache":
        """Writes one entry `[rows, kv_heads, head_dim]` a row, at `at[row]`, into one of the layers if it has them."""
        place = _of(layer, jnp.arange(at.shape[0]), slice(None), at)
        return KVCache(self.k.at[place].set(k), self.v.at[place].set(v))

    def rows(self, index: Leaf, layer: Leaf = None) -> "KVCache":
        """Returns the rows of an index, of one of the layers if it has them."""
        place = _of(layer, index)
        return KVCache(self.k[place], self.v[place])

    def of(self, layer: Leaf) -> "KVCache":
        """Returns one of the layers; None = the only one."""
        return self if layer is None else KVCache(self.k[layer], self.v[layer])


@pytree
class Level:
    """What several slots read and none of them writes: prompts, or completions that others go on from.

    A slot sees the entries `start <= number < end` of one row, as so many tokens before its own. Of a prompt, padded
    on the left, these are the last ones; of a completion the first.
    """

    cache: Any  # of the model: what `prefill` or `decode` returned
    row: Leaf  # i32[B]
    start: Leaf  # i32[B]
    end: Leaf  # i32[B]

    def of(self, index: Leaf) -> "Level":
        """Returns the level as it is for an index of its slots."""
        return Level(self.cache, self.row[index], self.start[index], self.end[index])

    @property
    def lengths(self) -> Leaf:
        """How many tokens each slot sees of it."""
        return self.end - self.start


def _of(layer: Leaf, *index: Any) -> tuple[Any, ...]:
    return index if layer is None else (layer, *index)
