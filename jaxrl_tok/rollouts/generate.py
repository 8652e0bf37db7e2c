"""Jitted sampling: prompts are prefilled once, decode slots are refilled inside one loop.

A request is one completion of one prompt. Its tokens depend on the weights, its prompt and its key
(seed, stream, step, prompt id, sample), folded with the position, and on nothing else: not on the slot it
ran in, the other requests, their order, or the number of devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer, Key

from jaxrl_tok import models
from jaxrl_tok.rollouts.extend import Engine, Extended, Requests, Temper, extend, from_prompts
from jaxrl_tok.rollouts.stop_strings import StopTable
from jaxrl_tok.scores.normalized_entropy import EntropyScale
from jaxrl_tok.types import LeftOut, Prompts, Rollouts, Sampled, Sampling


def request_keys(
    seed: Integer[Array, ""],
    stream: Int[Array, ""],
    step: Int[Array, ""],
    ids: Int[Array, " P"],
    samples: Int[Array, " G"],
) -> Key[Array, "P G"]:
    """Returns one key a request: (seed, stream, step, prompt id, sample) folded in that order."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    return fold(jax.vmap(jax.random.fold_in, (None, 0))(key, ids), samples)


def generate(
    params: Any,
    model: models.Model,
    prompts: Prompts,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    max_tokens: int,
    end_ids: tuple[int, ...],
    slots: int,
    refill: bool = True,
    axis_name: str | tuple[str, ...] | None = None,
    stops: StopTable | None = None,
    left_out: LeftOut | None = None,
    temper: Temper | None = None,
    scale: EntropyScale | None = None,
) -> tuple[Rollouts, Int[Array, ""]]:
    """Samples every completion; also returns how many decode steps it took.

    At most `slots` requests run at once. With `refill` a slot that ends takes the waiting request of the highest limit
    at once; without, a new round of requests starts when all have ended. `axis_name` names the mesh axes inside
    `shard_map`: slots and requests are then those of the shard, and all shards make the same number of steps. A
    completion also ends with the token that completes one of the strings of `stops`. What is `left_out` is not drawn.
    With `temper` each token has a temperature of its own, by the entropy of its distribution on `scale`.
    """
    engine = Engine.read(
        params, model, prompts, max_tokens=max_tokens, end_ids=end_ids, slots=slots,
        axis_name=axis_name, stops=stops, left_out=left_out, temper=temper, scale=scale,
    )  # fmt: skip
    done = extend(engine, independent(engine, keys, sampling), max_tokens, refill=refill)
    return as_rollouts(done, sampling), done.steps


def plain(engine: Engine, keys: Key[Array, "P G"], sampling: Sampling) -> Sampled:
    """Samples independent completions, once each: what a recipe without a method has."""
    done = extend(engine, independent(engine, keys, sampling), engine.max_tokens)
    return Sampled(as_rollouts(done, sampling), {}, done.lengths.reshape(keys.shape).sum(1, dtype=jnp.int32))


def independent(engine: Engine, keys: Key[Array, "P G"], sampling: Sampling) -> Requests:
    """Returns a request for each completion of each prompt, those of a prompt side by side."""
    count, group = keys.shape
    flat_keys, flat_sampling = jax.tree.map(lambda x: x.reshape(-1), (keys, sampling))
    return from_prompts(engine, jnp.arange(count * group, dtype=jnp.int32) // group, flat_keys, flat_sampling)


def as_rollouts(done: Extended, sampling: Sampling) -> Rollouts:
    """Returns what was sampled of prompts, all of it, by their groups: `sampling` is `[P, G]`."""
    group, size = sampling.temperature.shape, done.tokens.shape[1]
    mask = jnp.arange(size)[None] < done.lengths[:, None]
    by_token = None if done.temperatures is None else done.temperatures.reshape(*group, size)
    return Rollouts(
        tokens=done.tokens.reshape(*group, size),
        mask=mask.reshape(*group, size),
        truncated=~done.ended.reshape(group),
        sampler_logprobs=done.logprobs.reshape(*group, size),
        keep_thresholds=done.thresholds.reshape(*group, size),
        temperature=sampling.temperature if by_token is None else by_token,
        entropy=None if done.policy_entropies is None else done.policy_entropies.reshape(*group, size),
    )
