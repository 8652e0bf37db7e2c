"""What two pieces of text of the same length have in common, in tokens."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


def edit_distance(a: Int[Array, "B L"], b: Int[Array, "B L"]) -> Int[Array, " B"]:
    """Returns the fewest insertions, deletions and substitutions of tokens that make b of a.

        d[i,j] = min(d[i-1,j] + 1, d[i,j-1] + 1, d[i-1,j-1] + (a[i] != b[j]))

    Levenshtein's, row by row: with d[i,j] - j the dependence within a row is a running minimum.
    """
    length = a.shape[1]
    place = jnp.arange(length + 1, dtype=jnp.int32)[None]

    def row(i: Array, d: Array) -> Array:
        aslant = d[:, :-1] + (a[:, i, None] != b).astype(jnp.int32)
        best = jnp.concatenate([d[:, :1] + 1, jnp.minimum(d[:, 1:] + 1, aslant)], axis=1)
        return jax.lax.cummin(best - place, axis=1) + place

    return jax.lax.fori_loop(0, length, row, place + _zeros(a))[:, -1]


def common_subsequence(a: Int[Array, "B L"], b: Int[Array, "B L"]) -> Int[Array, " B"]:
    """Returns the length of the longest common subsequence: as a share of L it is ROUGE-L.

    l[i,j] = l[i-1,j-1] + 1 where a[i] = b[j], else max(l[i-1,j], l[i,j-1])
    """
    length = a.shape[1]

    def row(i: Array, best: Array) -> Array:
        longer = best[:, :-1] + (a[:, i, None] == b).astype(jnp.int32)
        best = jnp.concatenate([best[:, :1], jnp.maximum(best[:, 1:], longer)], axis=1)
        return jax.lax.cummax(best, axis=1)

    return jax.lax.fori_loop(0, length, row, jnp.zeros((1, length + 1), jnp.int32) + _zeros(a))[:, -1]


def common_suffix(a: Int[Array, "B L"], b: Int[Array, "B L"]) -> Int[Array, " B"]:
    """Returns the length of the longest end of a that is anywhere in b, or of b in a.

    m[i,j] = m[i-1,j-1] + 1 where a[i] = b[j], else 0;   max over j of m[L,j] and over i of m[i,L]
    """
    length = a.shape[1]

    def row(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        run, best = state
        run = jnp.where(a[:, i, None] == b, jnp.pad(run[:, :-1], ((0, 0), (1, 0))) + 1, 0)
        return run, jnp.maximum(best, run[:, -1])

    zeros = _zeros(a)
    run, best = jax.lax.fori_loop(0, length, row, (jnp.zeros((1, length), jnp.int32) + zeros, zeros[:, 0]))
    return jnp.maximum(best, jnp.max(run, axis=1))


def _zeros(a: Array) -> Array:
    """Zeros `[B, 1]` made of the array: inside `shard_map` a loop's carry must vary over the mesh as it does."""
    return a[:, :1] * 0
