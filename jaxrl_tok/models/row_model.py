"""A `Model` out of a function of plain rows of tokens: how a model that is not ours is trained.

Such a model knows no prompts that several completions share. Prompt and completion go in as one row, padded on the
left as the prompt is, so scoring reads each prompt once for every completion of its group: G * (S + T) tokens a prompt
in place of S + G * T.
"""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.models.cache import Level
from jaxrl_tok.models.model import Caches, Hidden, Params
from jaxrl_tok.models.params import ParamSpec
from jaxrl_tok.types import Tries


@dataclasses.dataclass(frozen=True)
class GivenSpec(ParamSpec):
    """A parameter whose first value comes with the model: weight decay applies to it from two dimensions on."""

    @property
    def decay(self) -> bool:
        """Whether it has two dimensions or more."""
        return len(self.shape) >= 2


@dataclasses.dataclass(frozen=True)
class CachedRows:
    """How a model reads a row in pieces.

    Every array of a cache is `[rows, length, ...]`. Prompts are read once for their group and kept apart from the
    completions; each step joins the two, which copies the cache once a token.
    """

    empty: Callable[[int, int], Caches]  # (rows, length)
    # (params, tokens [R, L], positions [R, L], start [R], seen [R, L, length], cache) -> (as `read`'s, longer cache);
    # the tokens are the row's numbers start, start + 1, ...
    step: Callable[..., tuple[Array, Caches]]


@dataclasses.dataclass(frozen=True)
class RowModel:
    """A model that reads rows; hashable and compared by its functions, which must be pure.

    Without `cached` every new token reads its whole row again: O(length^2) a completion in place of O(length), in the
    same fixed shapes. Its cache is then the tokens themselves.
    """

    read: Callable[..., Array]  # (params, tokens [R, L], positions [R, L], seen [R, L, L]) -> [R, L, D], or logits
    output: Callable[[Params], Array] | None  # params -> [V, D]; None where `read` gives logits [R, L, V]
    vocab: int
    tree: Any  # of the parameters
    leaves: tuple[ParamSpec, ...]
    logit_cap: float | None = None
    cached: CachedRows | None = None

    def specs(self) -> Any:
        """Returns the tree of `ParamSpec`."""
        return jax.tree.unflatten(self.tree, self.leaves)

    def forward(
        self,
        params: Params,
        prompts: Int[Array, "P S"],
        lengths: Int[Array, " P"],
        completions: Int[Array, "P G T"],
        mask: Bool[Array, "P G T"] | None = None,
    ) -> Hidden:
        """Returns hidden states, or logits, of prompts and completions; see `Model`."""
        (count, size), group = prompts.shape, completions.shape[1]
        repeated = jnp.broadcast_to(prompts[:, None], (count, group, size))
        rows = jnp.concatenate([repeated, completions], axis=2).reshape(count * group, -1)
        found = self._whole(params, rows, jnp.repeat(lengths, group), size)
        found = found.reshape(count, group, *found.shape[1:])
        return Hidden(found[:, 0, :size], found[:, :, size:])

    def forward_tries(
        self, params: Params, tries: Tries, mask: Bool[Array, "P G T"] | None = None
    ) -> tuple[Float[Array, "R S D"], None]:
        """Returns hidden states, or logits, of packed tries: to such a model they are rows of which it sees less."""
        place = jnp.arange(tries.tokens.shape[1], dtype=jnp.int32)
        on_path = (place[None, None] <= place[None, :, None]) & (place[None, :, None] < tries.ends[:, None])
        return self.read(params, tries.tokens, tries.positions, on_path | jnp.eye(len(place), dtype=bool)[None]), None

    def head(self, params: Params) -> Float[Array, "V D"] | None:
        """Returns the output matrix; None where the hidden states are logits."""
        return None if self.output is None else self.output(params)

    def for_decoding(self, params: Params, length: int) -> Params:
        """Returns the parameters as they are."""
        return params

    def prefill(
        self, params: Params, prompts: Int[Array, "P S"], lengths: Int[Array, " P"]
    ) -> tuple[Float[Array, "P D"], Caches]:
        """Returns what `read` gives for each prompt's last token, and the prompts or their cache."""
        count, size = prompts.shape
        if self.cached is None:
            return self._whole(params, prompts, lengths, size)[:, -1], prompts
        positions, seen = layout(lengths, size, size)
        start = jnp.zeros(count, jnp.int32)
        empty = self.cached.empty(count, size)
        found, cache = self.cached.step(params, prompts, positions, start, seen, empty)
        return found[:, -1], cache

    def empty_cache(self, rows: int, length: int) -> Caches:
        """Returns what `rows` completions of up to `length` tokens keep: the tokens, or their cache."""
        return jnp.zeros((rows, length), jnp.int32) if self.cached is None else self.cached.empty(rows, length)

    def decode(
        self,
        weights: Params,
        tokens: Int[Array, " B"],
        at: Int[Array, " B"],
        cache: Caches,
        levels: tuple[Level, ...],
    ) -> tuple[Float[Array, "B D"], Caches]:
        """Feeds each slot its token number `at`; see `Model`. What the slot sees is joined to one row, with holes."""
        slots = jnp.arange(len(at))
        if self.cached is None:
            cache = cache.at[slots, at].set(tokens)
        shared = [jax.tree.map(lambda x, level=level: x[level.row], level.cache) for level in levels]
        row = jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *shared, cache)
        positions, visible, size = _joined(levels, jax.tree.leaves(cache)[0].shape[1])
        place = jnp.arange(visible.shape[1], dtype=jnp.int32)
        if self.cached is None:
            before = place[None, None] <= place[None, :, None]
            seen = (before & visible[:, None]) | jnp.eye(len(place), dtype=bool)[None]
            return self.read(weights, row, positions, seen)[slots, size + at], cache
        seen = visible & (place[None] <= (size + at)[:, None])
        positions = positions[slots, size + at][:, None]
        found, row = self.cached.step(weights, tokens[:, None], positions, size + at, seen[:, None], row)
        return found[:, 0], jax.tree.map(lambda x: x[:, size:], row)

    def _whole(self, params: Params, rows: Array, lengths: Array, size: int) -> Array:
        """Reads rows from their first token to their last."""
        return self.read(params, rows, *layout(lengths, size, rows.shape[1]))


def layout(lengths: Int[Array, " R"], size: int, total: int) -> tuple[Int[Array, "R L"], Bool[Array, "R L L"]]:
    """Returns positions in the text and which tokens see which, for rows whose first `size` tokens are a padded prompt.

    Positions count from each prompt's first token; padding on its left gets 0. A token sees itself and what comes
    before it, padding left out; padding sees itself too, for the sake of a softmax over what it sees.
    """
    place, first = jnp.arange(total, dtype=jnp.int32), size - lengths
    positions = jnp.maximum(place[None] - first[:, None], 0)
    before = (place[None, None] <= place[None, :, None]) & (place[None, None] >= first[:, None, None])
    return positions, before | jnp.eye(total, dtype=bool)[None]


def _joined(levels: tuple[Level, ...], own: int) -> tuple[Int[Array, "B L"], Bool[Array, "B L"], int]:
    """Returns of rows of levels and `own` places: positions in the text, which places hold some of it, the first own.

    Positions of places that hold none are those next to them.
    """
    positions, visible, size = [], [], 0
    before = jnp.zeros(levels[0].row.shape, jnp.int32)
    for level in levels:
        count = jax.tree.leaves(level.cache)[0].shape[1]
        place = jnp.arange(count, dtype=jnp.int32)[None]
        start, end = level.start[:, None], level.end[:, None]
        positions.append(before[:, None] + jnp.clip(place - start, 0, jnp.maximum(end - start - 1, 0)))
        visible.append((place >= start) & (place < end))
        before, size = before + level.lengths, size + count
    positions.append(before[:, None] + jnp.arange(own, dtype=jnp.int32)[None])
    visible.append(jnp.ones((before.shape[0], own), bool))
    return jnp.concatenate(positions, axis=1), jnp.concatenate(visible, axis=1), size


def specs_of(params: Params, axes: Mapping[str, tuple[str | None, ...]]) -> tuple[Any, tuple[ParamSpec, ...]]:
    """Returns the tree and the leaves of the specs of given parameters, arrays or their shapes.

    `axes` has logical axes (the keys of `sharding.rules.RULES`, None = not split) by the parameter's path, with `*`
    for any part of it: `{"blocks.*.kernel": ("embed", "ffw")}`. The first that fits holds; without one a parameter is
    replicated.

    Raises:
      ConfigError: a parameter is not of floating point, a pattern fits none or has another number of axes.
    """
    found, tree = jax.tree_util.tree_flatten_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in found}
    for pattern in axes:
        if not fnmatch.filter(named, pattern):
            raise ConfigError(f"axes: no parameter is called {pattern!r}; {nearest(pattern, named)}")
    return tree, tuple(_spec(name, x, axes) for name, x in named.items())


def _spec(name: str, x: Any, axes: Mapping[str, tuple[str | None, ...]]) -> ParamSpec:
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ConfigError(f"parameter {name} is {x.dtype}; expected floating point")
    own = next((axes[pattern] for pattern in axes if fnmatch.fnmatchcase(name, pattern)), (None,) * x.ndim)
    if len(own) != x.ndim:
        raise ConfigError(f"axes: {own} for {name}, which is {x.shape}; expected {x.ndim} axes")
    return GivenSpec(tuple(x.shape), tuple(own))
