"""Rollouts from the states between the segments of completions, whose mean rewards are the values of these states."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import Engine, extend, fork, from_prompts
from jaxrl_tok.rollouts.generate import as_rollouts
from jaxrl_tok.scores import boundary_segments
from jaxrl_tok.types import Probes, Rollouts, Sampled, Sampling

# `state_values` are the mean rewards of the probes.
SUPPLIES = frozenset({"segment_ids", "state_values"})


def check_probes(samples: int, segments: int) -> None:
    """Refuses numbers below 1.

    Raises:
      ConfigError: there would be no values.
    """
    for name, value in {"samples": samples, "segments": segments}.items():
        if value < 1:
            raise ConfigError(f"{name} = {value}: expected at least 1")


def probed(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    starts: Callable[[Rollouts], Bool[Array, "P G T"]],
    *,
    samples: int,
    segments: int,
) -> Sampled:
    """Samples independent completions, then `samples` rollouts from the state before each of their segments.

    `starts` marks the first tokens of segments; of more than `segments` of them in a completion as many are kept,
    evenly spread over their order. The rollouts from a state have keys of their own, so none is the completion itself
    again. The state before the first token is the prompt: it is probed once for the whole group.

    All completions run at once, whatever the number of slots, since the probes read their keys and values; the probes
    run in slots. Also gives `segment_ids`, and `probes`.
    """
    count, group = keys.shape
    prompt_of = jnp.arange(count * group, dtype=jnp.int32) // group
    flat_keys, flat_sampling = jax.tree.map(lambda x: x.reshape(-1), (keys, sampling))
    requests = from_prompts(engine, prompt_of, flat_keys, flat_sampling)
    done = extend(engine, requests, engine.max_tokens, keep=True)
    rollouts = as_rollouts(done, sampling)
    boundaries = thinned(starts(rollouts) & rollouts.mask, segments)
    cuts = positions(boundaries, segments)
    of_prompt = cuts == 0
    wanted = (cuts > 0) | (of_prompt & (jnp.cumsum(of_prompt, axis=1) == 1))
    row, number = jnp.divmod(jnp.arange(count * group * segments * samples, dtype=jnp.int32), segments * samples)
    kept = jnp.maximum(cuts, 0).reshape(-1, segments)[row, number // samples]
    asked = wanted.reshape(-1, segments)[row, number // samples]
    below = fork(requests, done, row, kept, number % samples + 1, asked)
    found = extend(engine, below, engine.max_tokens)
    shape = (count, group, segments, samples)
    tokens = done.lengths.reshape(count, -1).sum(1, dtype=jnp.int32)
    return Sampled(
        rollouts,
        {"segment_ids": boundary_segments(boundaries, rollouts.mask)},
        tokens + found.lengths.reshape(count, -1).sum(1, dtype=jnp.int32),
        Probes(cuts, found.tokens.reshape(*shape, -1), found.lengths.reshape(shape)),
    )


def thinned(starts: Bool[Array, "P G T"], most: int) -> Bool[Array, "P G T"]:
    """Keeps at most so many of each row's marks: the first, and of n those i at which floor(i most / n) grows."""
    number = jnp.cumsum(starts, axis=2, dtype=jnp.int32)
    total = jnp.maximum(number[..., -1:], most)
    return starts & (((number - 1) * most) // total != ((number - 2) * most) // total)


def positions(marks: Bool[Array, "P G T"], most: int) -> Int[Array, "P G M"]:
    """Returns the places of each row's marks, of which there are at most so many, in order; -1 for those missing."""
    number = jnp.where(marks, jnp.cumsum(marks, axis=2, dtype=jnp.int32) - 1, most)  # out of range = dropped
    time = jnp.arange(marks.shape[2], dtype=jnp.int32)
    empty = jnp.full(most, -1, jnp.int32)
    return jax.vmap(jax.vmap(lambda at: empty.at[at].set(time, mode="drop")))(number)
