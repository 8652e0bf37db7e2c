"""Keys and values of what was already read."""

import jax
import jax.numpy as jnp
from flax import struct

from jaxrl_tok.types import Leaf


@struct.dataclass
class KVCache:
    """Keys and values of all layers, a row for each prompt or slot."""

    k: Leaf  # [layers, rows, length, kv_heads, head_dim]
    v: Leaf

    @classmethod
    def empty(cls, layers: int, rows: int, length: int, kv_heads: int, head_dim: int, dtype: str) -> "KVCache":
        """Returns a cache of zeros; what a slot held before is hidden by position, so it is never cleared."""
        shape = (layers, rows, length, kv_heads, head_dim)
        return cls(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def write(self, layer: Leaf, at: Leaf, k: Leaf, v: Leaf) -> "KVCache":
        """Writes one entry a row, at `at[row]`."""
        rows = jnp.arange(at.shape[0])
        return KVCache(self.k.at[layer, rows, at].set(k), self.v.at[layer, rows, at].set(v))

    def layer(self, layer: Leaf) -> tuple[Leaf, Leaf]:
        """Returns the keys and values of one layer."""
        return tuple(jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in (self.k, self.v))
