"""The most probable tokens of each distribution, without its logits."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok import compat
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels.dispatch import choose
from jaxrl_tok.kernels.token_score import chunked, parts, reference
from jaxrl_tok.kernels.token_score.arguments import accumulation_dtype, options_of
from jaxrl_tok.kernels.token_score.common import NEG, Layout, Options, columns_of, sweep
from jaxrl_tok.types import Leaf, pytree


@pytree
class TopK:
    """The k most probable tokens of each row, the most probable first, the lower id first of two that tie."""

    ids: Leaf  # i32[..., k]
    logprobs: Leaf  # f32[..., k], log p of each over the whole vocabulary


def top_k(
    hidden: Float[Array, "*rows D"],
    head: Float[Array, "_ _"],
    k: int,
    *,
    inv_temperature: float | int | Float[Array, "..."] = 1.0,
    soft_cap: float | int | None = None,
    head_layout: Layout | None = None,
    vocab_axis: str | None = None,
    fsdp_axis: str | None = None,
    vocabulary: int | None = None,
    backend: str = "auto",
    block: int | None = None,
) -> TopK:
    """Returns the ids and log-probs of the k most probable tokens, merged over blocks of the vocabulary.

    No gradient: for that, `score_many` takes the ids. Types and the meaning of z are those of `token_score`.

    Args:
        hidden: the model's last hidden states, after its final norm.
        head: [D, V] or [V, D].
        k: how many, up to V.
        inv_temperature: 1 / temperature, broadcast to the rows.
        soft_cap: see `token_score`, as for all that follow.
        head_layout: "dv" or "vd".
        vocab_axis: the mesh axis that V is split over.
        fsdp_axis: the mesh axis that D is split over.
        vocabulary: V of a padded head.
        backend: "chunked", "reference" or "auto".
        block: columns held at a time.

    Raises:
        ConfigError: as `token_score`, and a k that is not 1 to V.
    """
    split = {"vocab_axis": vocab_axis, "fsdp_axis": fsdp_axis, "vocabulary": vocabulary}
    options = options_of(hidden, head, soft_cap=soft_cap, head_layout=head_layout, block=block, **split)
    tokens = parts.vocabulary_of(head, options)
    if not 1 <= k <= tokens:
        raise ConfigError(f"k is {k}; expected 1 to {tokens}, the size of the vocabulary")
    chosen = choose(backend, dict.fromkeys(LARGEST))
    leading, dtype = hidden.shape[:-1], accumulation_dtype(hidden, head)
    factor = jnp.broadcast_to(jnp.asarray(inv_temperature).astype(dtype), leading).reshape(-1)
    inputs = jax.lax.stop_gradient((hidden.reshape(-1, hidden.shape[-1]), factor, head))
    z, ids, total = _top_rows(options, chosen, k, *compat.vary_together(inputs))
    logprobs = (z - z[:, :1]) - jnp.log(jnp.maximum(total, 1))[:, None]
    return TopK(ids=ids.reshape(*leading, k), logprobs=logprobs.reshape(*leading, k))


# (z, ids, sum_v exp(z_v - z[0])) of each row over a part of the vocabulary: z falls, ids rise among equal ones.
Found = tuple[Float[Array, "N _"], Array, Float[Array, "N"]]


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _top_rows(options: Options, backend: str, k: int, hidden: Array, factor: Array, head: Array) -> Found:
    def part_of(start: Array | int, size: int) -> Found:
        first = parts.first_column(head, start, options)
        limit = parts.limit_of(size, first, options)
        tile = parts.tile_of(head, start, size, options)
        z, ids, exps = LARGEST[backend](hidden, factor, tile, min(k, size), options, limit)
        return z, ids if first is None else ids + first, exps

    merge = functools.partial(_merged, k=k)
    z, ids, exps = parts.over_tiles(part_of, merge, lambda: _none(factor, k), head, options)
    if options.vocab_axis is None:
        return z, ids, exps
    largest = jax.lax.pmax(z[:, 0], options.vocab_axis)
    exps = jax.lax.psum(exps * jnp.exp(z[:, 0] - largest), options.vocab_axis)
    # Lower shards hold lower ids and come first, as the merge wants them.
    z, ids = (_gathered(x, options.vocab_axis) for x in (z, ids))
    z, places = jax.lax.top_k(z, k)
    return z, jnp.take_along_axis(ids, places, axis=1), exps


def _gathered(x: Array, axis: str) -> Array:
    """Returns every shard's columns side by side; by a sum, whose result is known to be the same on all shards."""
    width = x.shape[1]
    places = jnp.zeros_like(x, shape=(len(x), width * jax.lax.axis_size(axis)))
    return jax.lax.psum(jax.lax.dynamic_update_slice_in_dim(places, x, jax.lax.axis_index(axis) * width, 1), axis)


def _chunked(hidden: Array, factor: Array, head: Array, k: int, options: Options, limit: Array | None) -> Found:
    block, tiles = chunked.blocking(len(factor), head, options)

    def largest(rows: tuple[Array, Array]) -> Found:
        def step(total: Found, start: Array | int, size: int) -> Found:
            z, _ = chunked.tempered(rows[0], columns_of(head, start, size, options), rows[1], options)
            found = _largest(z, min(k, size), None if limit is None else limit - start)
            return _merged(total, (found[0], found[1] + jnp.int32(start), found[2]), k)

        return sweep(step, _none(rows[1], k), head.shape[options.columns], block)

    if tiles == 1:
        return largest((hidden, factor))
    return chunked.join(jax.lax.map(largest, chunked.split((hidden, factor), tiles)), len(factor))


def _reference(hidden: Array, factor: Array, head: Array, k: int, options: Options, limit: Array | None) -> Found:
    return _largest(reference.logits(hidden, head, factor, options)[0], k, limit)


LARGEST = {"chunked": _chunked, "reference": _reference}


def _largest(z: Float[Array, "N C"], k: int, limit: Array | None) -> Found:
    if limit is not None:
        z = jnp.where(jax.lax.broadcasted_iota(jnp.int32, z.shape, 1) < limit, z, NEG)
    values, places = jax.lax.top_k(z, k)
    return values, places, jnp.sum(jnp.exp(z - values[:, :1]), axis=1)


def _none(factor: Float[Array, "N"], k: int) -> Found:
    columns = jnp.broadcast_to((jnp.zeros_like(factor) + NEG)[:, None], (*factor.shape, k))
    return columns, jnp.zeros_like(columns, dtype=jnp.int32), jnp.zeros_like(factor)


def _merged(a: Found, b: Found, k: int) -> Found:
    """Returns the k largest of both; a has the lower ids."""
    z, ids = (jnp.concatenate(both, axis=1) for both in zip(a[:2], b[:2], strict=True))
    z, places = jax.lax.top_k(z, k)
    exps_a, exps_b = (exps * jnp.exp(part[:, 0] - z[:, 0]) for part, _, exps in (a, b))
    return z, jnp.take_along_axis(ids, places, axis=1), exps_a + exps_b
