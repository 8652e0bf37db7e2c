"""Decoding in slots: requests that start at a prompt, or go on from a token of an earlier completion.

What a request sees before its own tokens are levels: its prompt, then a part of each completion that it descends
from. They are read where they are, by row, and never copied to the request. A fork feeds the last token that it
keeps once more, so that of a completion nothing but its keys and values has to be kept.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrl_tok import models
from jaxrl_tok.rollouts.stop_strings import StopTable, advance
from jaxrl_tok.rollouts.waves import prefilled
from jaxrl_tok.samplers import draw, left_out, next_token_entropy, sampled_entropy
from jaxrl_tok.scores.normalized_entropy import EntropyScale
from jaxrl_tok.types import Leaf, LeftOut, Prompts, Sampling, pytree

# Forks draw the keys of their branches from numbers that no position of a token has.
FORK = 1 << 30


# Says which tokens of the vocabulary have a piece of text, or a match of a pattern, in theirs: bool[V], on the host.
Contains = Callable[[str | re.Pattern[str]], np.ndarray]


def nothing_contains(text: str | re.Pattern[str]) -> np.ndarray:
    """What is known of tokens without a tokenizer."""
    return np.zeros(0, bool)


# From the entropy of the policy's own distribution [B] and the request's temperature [B] to the token's own.
Temper = Callable[[Array, Array, EntropyScale], Array]


@dataclasses.dataclass(frozen=True)
class Engine:
    """A policy that has read its prompts, and how it decodes.

    `axis_name` names the mesh axes inside `shard_map`: prompts, slots and requests are then those of the shard, and
    all shards make the same number of steps.
    """

    model: models.Model
    weights: Any  # as `decode` reads them
    prompts: Prompts
    hidden: Leaf  # [P, D], of each prompt's last token
    cache: Any  # of the prompts
    max_tokens: int  # T, of a whole completion
    end_ids: tuple[int, ...]
    slots: int  # decoded at once, where nothing has to be kept
    wave: int = 0  # prompts read at once; 0 = all
    axis_name: str | tuple[str, ...] | None = None
    contains: Contains = nothing_contains
    stops: StopTable | None = None  # strings that end a completion as an end token does
    left_out: LeftOut | None = None  # tokens that are never drawn
    temper: Temper | None = None  # where each token has a temperature of its own
    scale: EntropyScale | None = None  # that it goes by

    @classmethod
    def read(cls, params: Any, model: models.Model, prompts: Prompts, *, max_tokens: int, **how: Any) -> "Engine":
        """Reads the prompts; `how` are the fields behind `max_tokens`."""
        hidden, cache = prefilled(model, params, prompts.tokens, prompts.lengths, how.get("wave", 0))
        weights = model.for_decoding(params, prompts.tokens.shape[1] + max_tokens)
        return cls(model, weights, prompts, hidden, cache, max_tokens, **how)


@pytree
class Requests:
    """N completions to be sampled, or to be gone on with.

    A request's token number t of the completion is drawn with its key folded with t: keys and positions decide, and
    not the phase in which a token is drawn.
    """

    keys: Leaf  # key[N]
    sampling: Sampling  # [N]; the limit is of the tokens that are sampled here
    prompt_of: Leaf  # i32[N]
    levels: tuple[models.Level, ...]  # the prompts, then the completions that it descends from, the oldest first
    # Of forks; None = all start at their prompts.
    position: Leaf = None  # i32[N], tokens before the first that is sampled here; 0 starts at the prompt
    token: Leaf = None  # i32[N], the last of them
    wanted: Leaf = None  # bool[N], None = all
    stop: Leaf = None  # i32[N], how much of a stop string the tokens before have; None = nothing
    forced: Leaf = None  # i32[F], what all of them begin with here: fed, not drawn, within the limit


class Extended(NamedTuple):
    """What was sampled for N requests of up to T tokens."""

    tokens: Int[Array, "N T"]
    logprobs: Float[Array, "N T"]
    thresholds: Float[Array, "N T"]  # see `draw`
    lengths: Int[Array, " N"]  # 0 of a request that was not wanted
    ended: Bool[Array, " N"]  # by an end token or a stop string
    stop: Int[Array, "N T"] | None  # the state of the stop table behind each token, where there is one
    steps: Int[Array, ""]
    entropies: Float[Array, "N T"] | None  # of the distribution drawn from
    cache: Any  # by request, where it was to be kept
    # Where each token has a temperature of its own.
    temperatures: Float[Array, "N T"] | None = None
    policy_entropies: Float[Array, "N T"] | None = None  # of softmax(logits)


def from_prompts(engine: Engine, prompt_of: Int[Array, " N"], keys: Key[Array, " N"], sampling: Sampling) -> Requests:
    """Returns requests that start at their prompts."""
    size = engine.prompts.tokens.shape[1]
    start = size - engine.prompts.lengths[prompt_of]
    level = models.Level(engine.cache, prompt_of, start, jnp.full_like(start, size))
    return Requests(keys, sampling, prompt_of, (level,))


def fork(
    requests: Requests,
    done: Extended,
    row: Int[Array, " M"],
    kept: Int[Array, " M"],
    branch: Int[Array, " M"],
    wanted: Bool[Array, " M"] | None = None,
) -> Requests:
    """Returns requests that go on from a completion of a finished phase, which has kept its cache.

    Request m keeps the first `kept[m]` of the tokens that `requests[row[m]]` has sampled; 0 of them only where that
    one starts at its prompt. Branch 0 has its parent's key, and so samples what its parent has; the others have keys
    of their own, by the parent's, the place and the number of the branch. The limits are what is left of the parent's.
    """
    earlier = jnp.zeros_like(kept) if requests.position is None else requests.position[row]
    # The parent's cache has the token that it was itself fed again, then all it sampled but the last.
    fed = 0 if requests.position is None else (earlier > 0).astype(kept.dtype)
    seen = models.Level(done.cache, row, jnp.zeros_like(kept), fed + jnp.maximum(kept - 1, 0))
    position = earlier + kept
    sampling = jax.tree.map(lambda x: x[row], requests.sampling)
    return Requests(
        keys=branch_keys(requests.keys[row], position, branch),
        sampling=dataclasses.replace(sampling, limit=sampling.limit - kept),
        prompt_of=requests.prompt_of[row],
        levels=(*(level.of(row) for level in requests.levels), seen),
        position=position,
        token=done.tokens[row, jnp.maximum(kept - 1, 0)],
        wanted=wanted,
        stop=_reached(requests, done, row, kept),
    )


def _reached(requests: Requests, done: Extended, row: Int[Array, " M"], kept: Int[Array, " M"]) -> Any:
    """How much of a stop string is there behind what forks keep; None without stop strings."""
    if done.stop is None:
        return None
    before = jnp.zeros_like(kept) if requests.stop is None else requests.stop[row]
    return jnp.where(kept > 0, done.stop[row, jnp.maximum(kept - 1, 0)], before)


def branch_keys(keys: Key[Array, " N"], position: Int[Array, " N"], branch: Int[Array, " N"]) -> Key[Array, " N"]:
    """Returns the keys of the branches of forks: number 0 has its parent's."""
    fold = jax.vmap(jax.random.fold_in)
    return jnp.where(branch == 0, keys, fold(fold(keys, FORK + position), branch))


class Loop(NamedTuple):
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
    entropies: Any  # f32[N, T], or None
    lengths: Array  # i32[N]
    ended: Array  # bool[N], by an end token or a stop string
    stop: Any  # i32[N, T], the state of the stop table behind each token, or None
    steps: Array  # i32[], passes through the loop
    busy: Array  # bool[], whether any slot of any device is live
    temperatures: Any  # f32[N, T], or None
    policy_entropies: Any  # f32[N, T], or None


def extend(
    engine: Engine, requests: Requests, size: int, *, keep: bool = False, refill: bool = True, entropy: bool = False
) -> Extended:
    """Samples up to `size` tokens for each request.

    At most `engine.slots` requests run at once. With `refill` a slot that ends takes the next waiting request at
    once, those of the highest limits first, so that no long one is begun when the others are done; without, a new round
    of requests starts, in their order, when all have ended. With `keep` there is a slot for each request, whatever the
    number of slots, and their cache is returned, for forks. With `entropy` also the entropy of each distribution that
    was drawn from.
    """
    count = requests.prompt_of.shape[0]
    slots = count if keep else min(engine.slots, count)
    order, total = (None, jnp.int32(count)) if keep else _queue(requests, refill)
    state = _start(engine, requests, slots, size, order, total, entropy)
    body = functools.partial(
        _step, engine=engine, requests=requests, order=order, total=total, refill=refill, entropy=entropy
    )
    state = jax.lax.while_loop(lambda state: state.busy, body, state)
    return extended(state, state.cache if keep else None)


def begin(engine: Engine, requests: Requests, size: int) -> Loop:
    """Returns the state in which `extend` begins, to be taken on by `go_on`; all of the requests are wanted."""
    count = requests.prompt_of.shape[0]
    return _start(engine, requests, min(engine.slots, count), size, *_queue(requests), False)


def go_on(engine: Engine, requests: Requests, state: Loop, steps: int) -> Loop:
    """Takes up to so many of the steps of `extend`; none once no slot is busy."""
    order, total = _queue(requests)
    body = functools.partial(
        _step, engine=engine, requests=requests, order=order, total=total, refill=True, entropy=False
    )
    last = state.steps + steps
    return jax.lax.while_loop(lambda state: state.busy & (state.steps < last), body, state)


def extended(state: Loop, cache: Any = None) -> Extended:
    """Returns what was sampled, when no slot is busy any more."""
    found = {name: getattr(state, name) for name in Extended._fields if name != "cache"}
    return Extended(**found, cache=cache)


def _queue(requests: Requests, longest_first: bool = True) -> tuple[Int[Array, " N"], Int[Array, ""]]:
    """Returns the requests in the order of their admission, those that are not wanted last, and how many are wanted."""
    limit = requests.sampling.limit
    wanted = jnp.ones(limit.shape, bool) if requests.wanted is None else requests.wanted
    rank = jnp.where(wanted, -limit if longest_first else 0, jnp.iinfo(jnp.int32).max)
    return jnp.argsort(rank, stable=True).astype(jnp.int32), jnp.sum(wanted, dtype=jnp.int32)


def _start(engine: Engine, requests: Requests, slots: int, size: int, order: Any, total: Array, entropy: bool) -> Loop:
    count = requests.prompt_of.shape[0]
    state = Loop(
        request=jnp.arange(slots, dtype=jnp.int32),
        length=jnp.zeros(slots, jnp.int32),
        token=jnp.zeros(slots, jnp.int32),
        live=jnp.ones(slots, bool),
        waiting=jnp.int32(slots),
        cache=engine.model.empty_cache(slots, size),
        tokens=jnp.zeros((count, size), jnp.int32),
        logprobs=jnp.zeros((count, size), jnp.float32),
        thresholds=jnp.full((count, size), -jnp.inf, jnp.float32),
        entropies=jnp.zeros((count, size), jnp.float32) if entropy else None,
        lengths=jnp.zeros(count, jnp.int32),
        ended=jnp.zeros(count, bool),
        stop=None if engine.stops is None else jnp.zeros((count, size), jnp.int32),
        steps=jnp.int32(0),
        busy=jnp.bool_(True),
        temperatures=None if engine.temper is None else jnp.ones((count, size), jnp.float32),
        policy_entropies=None if engine.temper is None else jnp.zeros((count, size), jnp.float32),
    )
    # Inside shard_map a loop's carry must vary over the mesh from the start as it does after a step.
    if engine.axis_name is not None:
        state = jax.lax.pcast(state, engine.axis_name, to="varying")
    if order is not None:
        state = state._replace(request=order[state.request], live=state.request < total)
    elif requests.wanted is not None:
        state = state._replace(live=requests.wanted)
    return state if requests.token is None else state._replace(token=requests.token[state.request])


def _logits(model: models.Model, weights: Any, hidden: Array) -> Array:
    head = model.head(weights)
    if head is None:
        logits = hidden.astype(jnp.float32)
    else:
        logits = jnp.einsum("BD,VD->BV", hidden, head, preferred_element_type=jnp.float32)
    return logits if model.logit_cap is None else model.logit_cap * jnp.tanh(logits / model.logit_cap)


def next_logits(
    engine: Engine, requests: Requests, request: Int[Array, " B"], token: Array, length: Array, cache: Any
) -> tuple[Float[Array, "B V"], Any]:
    """Feeds each slot its last token, of `length` so far; returns the logits of the next one and the longer cache."""
    starts = length == 0
    # A slot that starts at its prompt has no token to feed: what it reads is its prompt's last hidden state. A fork
    # is fed the last token that it keeps, in its own first place.
    fed = length - 1
    if requests.position is not None:
        forked = requests.position[request] > 0
        starts, fed = starts & ~forked, jnp.where(forked, length, fed)
    levels = tuple(level.of(request) for level in requests.levels)
    decoded, cache = engine.model.decode(engine.weights, token, jnp.maximum(fed, 0), cache, levels)
    seen = jnp.where(starts[:, None], engine.hidden[requests.prompt_of[request]], decoded)
    return _logits(engine.model, engine.weights, seen), cache


def _step(
    state: Loop,
    *,
    engine: Engine,
    requests: Requests,
    order: Any,
    total: Array,
    refill: bool,
    entropy: bool,
) -> Loop:
    """Feeds each slot its last token, samples the next one, and refills the slots that ended."""
    count = requests.prompt_of.shape[0]
    request = jnp.minimum(state.request, count - 1)
    logits, cache = next_logits(engine, requests, request, state.token, state.length, state.cache)
    ask = jax.tree.map(lambda x: x[request], requests.sampling)
    position = state.length if requests.position is None else state.length + requests.position[request]
    write, at = jnp.where(state.live, request, count), state.length  # out of range = dropped
    ask, tempered = _tempered(state, engine, ask, logits, write)
    logits = left_out(logits, position, engine.left_out)
    keys = jax.vmap(jax.random.fold_in)(requests.keys[request], position)
    drawn = draw(keys, logits, ask.temperature, ask.top_k, ask.top_p, ask.min_p)
    token, logprob, threshold = _forced(requests, state.length, *drawn)
    length = state.length + 1
    is_end, reached = _ends(state, engine, requests, request, position, token)
    done = state.live & (is_end | (length >= ask.limit))

    entropies = state.entropies
    if entropy:
        entropies = entropies.at[write, at].set(sampled_entropy(logits, ask.temperature, threshold), mode="drop")
    going = state.live & ~done
    free = done | ~state.live
    candidate = state.waiting + jnp.cumsum(free) - 1
    takes = free & (candidate < total) & (True if refill else ~jnp.any(going))
    live = going | takes
    busy = jnp.any(live)
    if engine.axis_name is not None:
        busy = jax.lax.pmax(busy.astype(jnp.int32), engine.axis_name) > 0
        busy = jax.lax.pcast(busy, engine.axis_name, to="varying")
    admitted = candidate if order is None else order[jnp.minimum(candidate, count - 1)]
    request = jnp.where(takes, admitted, state.request).astype(jnp.int32)
    if requests.token is not None:
        token_fed = jnp.where(takes, requests.token[jnp.minimum(request, count - 1)], token)
    return Loop(
        request=request,
        length=jnp.where(takes, 0, length),
        token=token if requests.token is None else token_fed,
        live=live,
        waiting=(state.waiting + jnp.sum(takes)).astype(jnp.int32),
        cache=cache,
        tokens=state.tokens.at[write, at].set(token, mode="drop"),
        logprobs=state.logprobs.at[write, at].set(logprob, mode="drop"),
        thresholds=state.thresholds.at[write, at].set(threshold, mode="drop"),
        entropies=entropies,
        lengths=state.lengths.at[write].set(length, mode="drop"),
        ended=state.ended.at[write].set(is_end, mode="drop"),
        stop=None if engine.stops is None else state.stop.at[write, at].set(reached, mode="drop"),
        steps=state.steps + 1,
        busy=busy,
        **tempered,
    )


def _tempered(
    state: Loop, engine: Engine, ask: Sampling, logits: Array, write: Array
) -> tuple[Sampling, dict[str, Array | None]]:
    """Gives each slot's token a temperature of its own, and writes it down, where that is how it is sampled."""
    if engine.temper is None:
        return ask, {"temperatures": None, "policy_entropies": None}
    assert engine.scale is not None
    entropy = next_token_entropy(logits)
    ask = dataclasses.replace(ask, temperature=engine.temper(entropy, ask.temperature, engine.scale))
    new = {"temperatures": ask.temperature, "policy_entropies": entropy}
    return ask, {name: getattr(state, name).at[write, state.length].set(x, mode="drop") for name, x in new.items()}


def _ends(
    state: Loop, engine: Engine, requests: Requests, request: Array, position: Array, token: Array
) -> tuple[Array, Any]:
    """Says which slots' new tokens end them; also returns their states of the stop table, where there is one.

    Where a completion has too few tokens the state stays 0, so that a stop string counts only if it begins later.
    """
    is_end = functools.reduce(jnp.logical_or, (token == end for end in engine.end_ids), jnp.zeros_like(state.live))
    may_end = True if requests.forced is None else state.length >= requests.forced.shape[0]
    if engine.stops is None:
        return is_end & may_end, None
    begins = jnp.zeros_like(request) if requests.stop is None else requests.stop[request]
    before = state.stop[request, jnp.maximum(state.length - 1, 0)]
    reached, stops = advance(engine.stops, jnp.where(state.length == 0, begins, before), token)
    if engine.left_out is not None and engine.left_out.minimum:
        enough = position + 1 >= engine.left_out.minimum
        reached, stops = jnp.where(enough, reached, 0), stops & enough
    return (is_end | stops) & may_end, reached


def _forced(requests: Requests, length: Array, token: Array, logprob: Array, threshold: Array) -> tuple[Array, ...]:
    """Puts the tokens that requests begin with in the place of what was drawn, with log-prob 0 and no filter."""
    if requests.forced is None:
        return token, logprob, threshold
    size = requests.forced.shape[0]
    now = length < size
    put = requests.forced[jnp.minimum(length, size - 1)]
    return jnp.where(now, put, token), jnp.where(now, 0, logprob), jnp.where(now, -jnp.inf, threshold)
