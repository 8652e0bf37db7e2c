"""Sampling in calls of a few decode steps each, so that the host sees completions as they end.

The calls take the steps of `generate` one after the other, and sample the same tokens. What passes between them has
a leading axis for the shards of a mesh, each of which decodes its own requests; without a mesh it is 1.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key

from jaxrl_tok import models
from jaxrl_tok.rollouts.extend import Engine, Loop, begin, extended, go_on
from jaxrl_tok.rollouts.generate import as_rollouts, independent
from jaxrl_tok.scores.normalized_entropy import EntropyScale
from jaxrl_tok.types import Leaf, Prompts, Rollouts, Sampling, pytree


@pytree
class Read:
    """What all of the calls read and none changes: the weights as they decode, and the prompts."""

    weights: Any
    hidden: Leaf
    cache: Any
    keys: Leaf  # key[P, G]
    sampling: Sampling
    scale: Any = None  # EntropyScale, where temperatures go by one


class Progress(NamedTuple):
    """What the host looks at, apart from the state, which the next call takes over."""

    busy: Leaf  # bool[shards]
    tokens: Leaf  # i32[shards, N, T]
    lengths: Leaf  # i32[shards, N]
    finished: Leaf  # bool[shards, N]


def first(
    params: Any,
    model: models.Model,
    prompts: Prompts,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    scale: EntropyScale | None = None,
    **how: Any,
) -> tuple[Read, Loop]:
    """Returns what is read, and the state before the first step; `how` are the fields of an `Engine`."""
    engine = Engine.read(params, model, prompts, scale=scale, **how)
    state = begin(engine, independent(engine, keys, sampling), engine.max_tokens)
    read = Read(engine.weights, engine.hidden, engine.cache, keys, sampling, scale)
    return jax.tree.map(lambda x: x[None], (read, state))


def chunk(
    read: Read, state: Loop, model: models.Model, prompts: Prompts, *, steps: int, **how: Any
) -> tuple[Loop, Progress]:
    """Takes up to `steps` decode steps."""
    read, state = jax.tree.map(lambda x: x[0], (read, state))
    engine = Engine(model, read.weights, prompts, read.hidden, read.cache, scale=read.scale, **how)
    requests = independent(engine, read.keys, read.sampling)
    state = go_on(engine, requests, state, steps)
    finished = (state.lengths > 0) & (state.ended | (state.lengths >= requests.sampling.limit))
    progress = Progress(state.busy, state.tokens, state.lengths, finished)
    return jax.tree.map(lambda x: x[None], (state, progress))


def result(read: Read, state: Loop) -> Rollouts:
    """Returns what was sampled, when no slot is busy any more."""
    read, state = jax.tree.map(lambda x: x[0], (read, state))
    return as_rollouts(extended(state), read.sampling)
