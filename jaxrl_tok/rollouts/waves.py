"""Prompts that are read so many at a time, so that memory holds the activations of these alone."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok import models


def prefilled(
    model: models.Model, params: Any, tokens: Int[Array, "P S"], lengths: Int[Array, " P"], wave: int
) -> tuple[Float[Array, "P D"], Any]:
    """Returns what `model.prefill` does of all prompts, `wave` of them at a time; 0 = all at once.

    The last wave is filled up with the first prompts. Where experts drop tokens, which ones they drop depends on what
    is read together.
    """
    count = tokens.shape[0]
    if not 0 < wave < count:
        return model.prefill(params, tokens, lengths)
    rows = (jnp.arange(-(-count // wave) * wave) % count).reshape(-1, wave)
    hidden, cache = jax.lax.map(lambda index: model.prefill(params, tokens[index], lengths[index]), rows)

    def joined(x: Array, axis: int) -> Array:
        """Lays the waves, the first axis, one behind the other along the axis of rows."""
        x = jnp.moveaxis(x, 0, axis)
        whole = x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])
        return jax.lax.slice_in_dim(whole, 0, count, axis=axis)

    def read(number: int) -> Any:
        shapes = [jax.ShapeDtypeStruct((number, *x.shape[1:]), x.dtype) for x in (tokens, lengths)]
        given = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        return jax.eval_shape(model.prefill, given, *shapes)[1]

    return joined(hidden, 0), jax.tree.map(joined, cache, row_axes(read, wave))


def row_axes(made: Callable[[int], Any], rows: int) -> Any:
    """Returns which axis of each array of a cache is that of its rows: the one that grows with their number.

    `made` gives the shapes of the cache of a number of rows.
    """
    small, large = made(rows), made(rows + 1)

    def axis(a: Any, b: Any) -> int:
        return next(i for i, (m, n) in enumerate(zip(a.shape, b.shape, strict=True)) if m != n)

    return jax.tree.map(axis, small, large)
