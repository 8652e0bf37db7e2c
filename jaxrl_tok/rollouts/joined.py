"""What was sampled in several phases, as whole completions."""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxrl_tok.rollouts.extend import Extended


def spliced(first: Extended, row: Int[Array, " N"], kept: Int[Array, " N"], rest: Extended) -> Extended:
    """Returns whole completions: the first `kept[n]` tokens of `first`'s row `row[n]`, then those of `rest`'s row n."""
    at = jnp.arange(rest.tokens.shape[1], dtype=jnp.int32)[None]
    before = jnp.minimum(at[0], first.tokens.shape[1] - 1)
    behind = jnp.maximum(at - kept[:, None], 0)

    def whole(name: str) -> Array:
        own = jnp.take_along_axis(getattr(rest, name), behind, axis=1)
        return jnp.where(at < kept[:, None], getattr(first, name)[row][:, before], own)

    found = {name: whole(name) for name in ("tokens", "logprobs", "thresholds")}
    return rest._replace(**found, lengths=kept + rest.lengths, entropies=None, cache=None)


def beside(parts: Sequence[Extended], groups: int) -> Extended:
    """Lays completions side by side: of each part so many that each of the groups has as many, the first's first."""

    def joined(name: str) -> Array:
        grouped = [getattr(part, name).reshape(groups, -1, *getattr(part, name).shape[1:]) for part in parts]
        whole = jnp.concatenate(grouped, axis=1)
        return whole.reshape(-1, *whole.shape[2:])

    found = {name: joined(name) for name in ("tokens", "logprobs", "thresholds", "lengths", "ended")}
    return parts[0]._replace(**found, entropies=None, cache=None)
