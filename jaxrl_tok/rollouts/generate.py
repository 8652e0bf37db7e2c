"""Jitted sampling: prompts are prefilled once, decode slots are refilled inside one loop.

A request is one completion of one prompt. Its tokens depend on the weights, its prompt and its key
(seed, stream, step, prompt id, sample), folded with the position, and on nothing else: not on the slot it
ran in, the other requests, their order, or the number of devices.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Integer, Key

from jaxrl_tok import models
from jaxrl_tok.samplers import draw
from jaxrl_tok.types import Prompts, Rollouts, Sampling


class _Loop(NamedTuple):
    """State of the decode loop: B slots, N requests, T tokens a request."""

    request: Array  # i32[B], the request in this slot
    length: Array  # i32[B], tokens it has so far
    token: Array  # i32[B], the last of them
    live: Array  # bool[B]
    waiting: Array  # i32[], the next request to admit
    cache: Any
    tokens: Array  # i32[N, T]
    logprobs: Array  # f32[N, T]
    thresholds: Array  # f32[N, T]
    lengths: Array  # i32[N]
    ended: Array  # bool[N], by an end token
    steps: Array  # i32[], passes through the loop
    busy: Array  # bool[], whether any slot of any device is live


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
) -> tuple[Rollouts, Int[Array, ""]]:
    """Samples every completion; also returns how many decode steps it took.

    At most `slots` requests run at once. With `refill` a slot that ends takes the next waiting request at
    once; without, a new round of requests starts when all have ended. `axis_name` names the mesh axes inside
    `shard_map`: slots and requests are then those of the shard, and all shards make the same number of steps.
    """
    count, group = keys.shape
    flat = jax.tree.map(lambda x: x.reshape(-1), (keys, sampling))
    hidden, prompt_cache = model.prefill(params, prompts.tokens, prompts.lengths)
    slots = min(slots, count * group)
    state = _start(model, slots, count * group, max_tokens, axis_name)
    body = functools.partial(
        _step,
        weights=model.for_decoding(params, prompts.tokens.shape[1] + max_tokens),
        model=model,
        lengths=prompts.lengths,
        group=group,
        hidden=hidden,
        prompt_cache=prompt_cache,
        keys=flat[0],
        sampling=flat[1],
        end_ids=end_ids,
        refill=refill,
        axis_name=axis_name,
    )
    state = jax.lax.while_loop(lambda state: state.busy, body, state)
    shape = (count, group, max_tokens)
    mask = jnp.arange(max_tokens)[None] < state.lengths[:, None]
    rollouts = Rollouts(
        tokens=state.tokens.reshape(shape),
        mask=mask.reshape(shape),
        truncated=~state.ended.reshape(count, group),
        sampler_logprobs=state.logprobs.reshape(shape),
        keep_thresholds=state.thresholds.reshape(shape),
        temperature=sampling.temperature,
    )
    return rollouts, state.steps


def _start(model: models.Model, slots: int, requests: int, size: int, axis_name: str | tuple[str, ...] | None) -> _Loop:
    state = _Loop(
        request=jnp.arange(slots, dtype=jnp.int32),
        length=jnp.zeros(slots, jnp.int32),
        token=jnp.zeros(slots, jnp.int32),
        live=jnp.ones(slots, bool),
        waiting=jnp.int32(slots),
        cache=model.empty_cache(slots, size),
        tokens=jnp.zeros((requests, size), jnp.int32),
        logprobs=jnp.zeros((requests, size), jnp.float32),
        thresholds=jnp.full((requests, size), -jnp.inf, jnp.float32),
        lengths=jnp.zeros(requests, jnp.int32),
        ended=jnp.zeros(requests, bool),
        steps=jnp.int32(0),
        busy=jnp.bool_(True),
    )
    # Inside shard_map a loop's carry must vary over the mesh from the start as it does after a step.
    return state if axis_name is None else jax.lax.pcast(state, axis_name, to="varying")


def _logits(model: models.Model, weights: Any, hidden: Array) -> Array:
    head = model.head(weights)
    if head is None:
        logits = hidden.astype(jnp.float32)
    else:
        logits = jnp.einsum("BD,VD->BV", hidden, head, preferred_element_type=jnp.float32)
    return logits if model.logit_cap is None else model.logit_cap * jnp.tanh(logits / model.logit_cap)


def _step(
    state: _Loop,
    *,
    weights: Any,
    model: models.Model,
    lengths: Array,
    group: int,
    hidden: Array,
    prompt_cache: Any,
    keys: Array,
    sampling: Sampling,
    end_ids: tuple[int, ...],
    refill: bool,
    axis_name: str | tuple[str, ...] | None,
) -> _Loop:
    """Feeds each slot its last token, samples the next one, and refills the slots that ended."""
    requests = keys.shape[0]
    request = jnp.minimum(state.request, requests - 1)
    prompt_of = request // group
    # A slot that has just started has no token to feed: what it reads is its prompt's last hidden state.
    fed = jnp.maximum(state.length - 1, 0)
    decoded, cache = model.decode(weights, state.token, fed, state.cache, prompt_cache, prompt_of, lengths)
    seen = jnp.where((state.length == 0)[:, None], hidden[prompt_of], decoded)
    logits = _logits(model, weights, seen)
    ask = jax.tree.map(lambda x: x[request], sampling)
    token, logprob, threshold = draw(
        jax.vmap(jax.random.fold_in)(keys[request], state.length),
        logits, ask.temperature, ask.top_k, ask.top_p, ask.min_p,
    )  # fmt: skip
    length = state.length + 1
    is_end = functools.reduce(jnp.logical_or, (token == end for end in end_ids), jnp.zeros_like(state.live))
    done = state.live & (is_end | (length >= ask.limit))

    write = jnp.where(state.live, request, requests)  # out of range = dropped
    at = state.length
    going = state.live & ~done
    free = done | ~state.live
    candidate = state.waiting + jnp.cumsum(free) - 1
    takes = free & (candidate < requests) & (True if refill else ~jnp.any(going))
    live = going | takes
    busy = jnp.any(live)
    if axis_name is not None:
        busy = jax.lax.pcast(jax.lax.pmax(busy.astype(jnp.int32), axis_name) > 0, axis_name, to="varying")
    return _Loop(
        request=jnp.where(takes, candidate, state.request).astype(jnp.int32),
        length=jnp.where(takes, 0, length),
        token=token,
        live=live,
        waiting=(state.waiting + jnp.sum(takes)).astype(jnp.int32),
        cache=cache,
        tokens=state.tokens.at[write, at].set(token, mode="drop"),
        logprobs=state.logprobs.at[write, at].set(logprob, mode="drop"),
        thresholds=state.thresholds.at[write, at].set(threshold, mode="drop"),
        lengths=state.lengths.at[write].set(length, mode="drop"),
        ended=state.ended.at[write].set(is_end, mode="drop"),
        steps=state.steps + 1,
        busy=busy,
    )
