"""Keys and values of what was already read."""

import jax.numpy as jnp

from jaxrl_tok.types import Leaf, pytree


@pytree
class KVCache:
    """Keys and values of one layer, a row for each prompt or slot.

    Heads come before positions: the products of attention then read a head's keys in one piece.
    """

    k: Leaf  # [rows, kv_heads, length, head_dim]
    v: Leaf

    @classmethod
    def empty(cls, rows: int, kv_heads: int, length: int, head_dim: int, dtype: str) -> "KVCache":
        """Returns a cache of zeros; what a slot held before is hidden by position, so it is never cleared."""
        shape = (rows, kv_heads, length, head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def write(self, at: Leaf, k: Leaf, v: Leaf) -> "KVCache":
        """Writes one entry `[rows, kv_heads, head_dim]` a row, at `at[row]`."""
        rows = jnp.arange(at.shape[0])
        return KVCache(self.k.at[rows, :, at].set(k), self.v.at[rows, :, at].set(v))

    def rows(self, index: Leaf) -> "KVCache":
        """Returns the rows of an index."""
        return KVCache(self.k[index], self.v[index])
