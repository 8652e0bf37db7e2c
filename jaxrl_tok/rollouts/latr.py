"""Completions from a lookahead tree, which branches where two next tokens are likely: the rollouts of LATR."""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import (
    Contains,
    Engine,
    Extended,
    Requests,
    extend,
    fork,
    from_prompts,
    next_logits,
)
from jaxrl_tok.rollouts.generate import as_rollouts
from jaxrl_tok.rollouts.joined import spliced
from jaxrl_tok.rollouts.similarity import common_subsequence, common_suffix, edit_distance
from jaxrl_tok.rollouts.waves import row_axes
from jaxrl_tok.samplers import temperature as divided
from jaxrl_tok.types import Sampled, Sampling

# A branch that goes another way at one of these is another calculation, however alike the texts are.
SYMBOLS = "+-*/\\<>=()[]{}_^&%$0123456789"


class _Rules(NamedTuple):
    """When a branch is made, when it goes again, and when the tree is left."""

    absolute: float
    relative: float
    steps: tuple[int, ...]
    edit: float
    suffix: float
    rouge: float
    symbols: str
    fill: float
    decay: float


def check(
    group: int,
    max_tokens: int,
    contains: Contains,
    *,
    eta: float,
    absolute: float,
    steps: list[int] | tuple[int, ...],
    edit: float,
    suffix: float,
    rouge: float,
    lookahead: int,
) -> None:
    """Refuses what gives no tree.

    Raises:
      ConfigError: a share out of its range, a tree without a completion, a comparison or a tree of no token.
    """
    if not 0 <= eta <= 1 or round(eta * group) < 1:
        raise ConfigError(f"eta = {eta}: expected at most 1, and at least one of rollout.group = {group} completions")
    for name, value in (("absolute", absolute), ("suffix", suffix), ("rouge", rouge), ("edit", edit)):
        if not 0 <= value <= 1:
            raise ConfigError(f"{name} = {value}: expected 0 to 1")
    if steps and min(steps) < 1:
        raise ConfigError(f"steps = {list(steps)}: expected numbers of at least 1")
    if lookahead < 1:
        raise ConfigError(f"lookahead = {lookahead}: expected at least 1")


def latr(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    eta: float = 0.5,
    absolute: float = 0.25,
    relative: float = 0.15,
    steps: list[int] | tuple[int, ...] = (20, 30, 50),
    edit: float = 0.4,
    suffix: float = 1.0,
    rouge: float = 1.0,
    symbols: str = SYMBOLS,
    fill: float = 0.98,
    decay: float = 0.05,
    lookahead: int = 512,
) -> Sampled:
    """Samples on from each of up to k = round(eta G) branches of a tree a prompt; the others are plain samples.

        a branch goes on with its likeliest token; the second one makes a new branch
            if p2 > absolute and p1 - p2 < relative,   p = softmax(logits), at temperature 1
        after 20, 30 and 50 tokens apart from its parent a branch goes again, with all that came of it,
            if edit_distance < edit n or common_suffix > suffix n or common_subsequence > rouge n, of the n tokens

    LATR, Xing et al. 2025, https://arxiv.org/abs/2510.24302, with its code's numbers for countdown; those for
    mathematics are absolute 0.15, relative 0.25, edit 0, suffix 0.2, rouge 0.5, lookahead 1024. `eta` falls from 1 to 0
    over its training; here it is constant, 0.5 being the middle.

    Of more new branches than there is room for, those of the oldest branches are made. One that has ended keeps its
    place. A branch is not compared if it or its parent has ended since, or the token of the parent where they part is
    one of `symbols`. A prompt's tree is left when it has round(k (fill - decay t / T)) branches, or all have ended, and
    none is younger than the last comparison and two tokens; in any case at `lookahead` tokens. The code leaves all
    trees of a batch at once, by their sum, which would let a prompt's completions depend on the others.

    Places without a branch get plain samples, the ones that independent sampling gives; the code fills them with copies
    of the first branch, which count its reward several times. `sampler_logprobs` of the tree are those at the request's
    temperature, without filters: its tokens are choices, not draws, and no ratio knows it. Thresholds that nothing
    passes give one greedy beginning.
    """
    count, group = keys.shape
    ways = round(eta * group)
    rules = _Rules(absolute, relative, tuple(steps), edit, suffix, rouge, symbols, fill, decay)
    rows = jnp.arange(count * ways, dtype=jnp.int32)
    own = jax.tree.map(lambda x: x[:, :ways].reshape(-1), (keys, sampling))
    requests = from_prompts(engine, rows // ways, *own)
    state = _grown(engine, requests, ways, min(lookahead, engine.max_tokens), rules)
    return _behind(state, engine, requests, keys, sampling)


def _behind(state: "_Tree", engine: Engine, requests: Requests, keys: Array, sampling: Sampling) -> Sampled:
    """Samples on from the branches that there are, and plain completions in the other places."""
    (count, group), ways = keys.shape, state.above.shape[1]
    tree = _extended(state)
    prompt, number = jnp.divmod(jnp.arange(count * group, dtype=jnp.int32), group)
    row = prompt * ways + jnp.minimum(number, ways - 1)
    grown = (number < ways) & state.exists[row]
    kept = jnp.where(grown, state.lengths[row], 0)
    flat_keys, flat = jax.tree.map(lambda x: x.reshape(-1), (keys, sampling))
    below = dataclasses.replace(
        fork(requests, tree, row, kept, jnp.zeros_like(row), ~grown | state.live[row]),
        keys=flat_keys,
        sampling=dataclasses.replace(flat, limit=flat.limit - kept),
    )
    rest = extend(engine, below, engine.max_tokens)
    whole = spliced(tree, row, kept, rest)
    whole = whole._replace(ended=rest.ended | (grown & state.ended[row]))
    tokens = state.sampled + rest.lengths.reshape(count, -1).sum(1, dtype=jnp.int32)
    return Sampled(as_rollouts(whole, sampling), {}, tokens)


class _Tree(NamedTuple):
    """The lookahead: R = P k rows, each for a branch of its own, up to L tokens a branch."""

    time: Array  # i32[], tokens that branches have which have not ended
    open: Array  # bool[P], the prompt's tree still grows
    exists: Array  # bool[R]
    live: Array  # bool[R], exists and has not ended
    ended: Array  # bool[R], by an end token
    birth: Array  # i32[R], tokens shared with the parent
    parent: Array  # i32[R], its number among the prompt's rows; -1 of the first branch
    above: Array  # bool[R, k], whether the prompt's branches are parents, or their parents, of this one
    lengths: Array  # i32[R]
    tokens: Array  # i32[R, L]
    logprobs: Array  # f32[R, L]
    cache: Any
    sampled: Array  # i32[P]
    busy: Array  # bool[], whether any tree of any device grows


def _grown(engine: Engine, requests: Requests, ways: int, size: int, rules: _Rules) -> _Tree:
    rows = requests.prompt_of.shape[0]
    first = jnp.arange(rows, dtype=jnp.int32) % ways == 0
    zeros = jnp.zeros(rows, jnp.int32)
    state = _Tree(
        time=jnp.int32(0),
        open=jnp.ones(rows // ways, bool),
        exists=first,
        live=first,
        ended=jnp.zeros(rows, bool),
        birth=zeros,
        parent=zeros - 1,
        above=jnp.zeros((rows, ways), bool),
        lengths=zeros,
        tokens=jnp.zeros((rows, size), jnp.int32),
        logprobs=jnp.zeros((rows, size), jnp.float32),
        cache=engine.model.empty_cache(rows, size),
        sampled=jnp.zeros(rows // ways, jnp.int32),
        busy=jnp.bool_(True),
    )
    # Inside shard_map a loop's carry must vary over the mesh from the start as it does after a step.
    if engine.axis_name is not None:
        state = jax.lax.pcast(state, engine.axis_name, to="varying")
    spared = jnp.asarray(engine.contains(_alone(rules.symbols))) if rules.symbols else None
    body = functools.partial(_step, engine=engine, requests=requests, ways=ways, rules=rules, spared=spared)
    return jax.lax.while_loop(lambda state: state.busy, body, state)


def _step(state: _Tree, *, engine: Engine, requests: Requests, ways: int, rules: _Rules, spared: Any) -> _Tree:
    """Gives every branch its next token, makes new ones, takes back those that are too alike."""
    rows, size = state.tokens.shape
    t, going = state.time, state.live & jnp.repeat(state.open, ways)
    last = jax.lax.dynamic_index_in_dim(state.tokens, jnp.maximum(t - 1, 0), axis=1, keepdims=False)
    everyone = jnp.arange(rows, dtype=jnp.int32)
    logits, cache = next_logits(engine, requests, everyone, last, jnp.full(rows, t), state.cache)
    top, (best, second) = _two_likeliest(logits)
    scaled = jax.nn.log_softmax(divided(logits, requests.sampling.temperature), axis=-1)
    of_best, of_second = (jnp.take_along_axis(scaled, x[:, None], axis=1)[:, 0] for x in (best, second))
    wants = going & undecided(top, rules.absolute, rules.relative)
    source, made = new_branches(*(x.reshape(-1, ways) for x in (wants, state.exists, state.birth)))
    local, made = source.reshape(-1), made.reshape(-1)
    source = everyone // ways * ways + local

    token, logprob = jnp.where(made, second[source], best), jnp.where(made, of_second[source], of_best)
    writes = going | made
    is_end = functools.reduce(jnp.logical_or, (token == end for end in engine.end_ids), jnp.zeros_like(made))
    tokens, logprobs = (
        jnp.where(made[:, None], x[source], x).at[:, t].set(jnp.where(writes, new, x[:, t]))
        for x, new in ((state.tokens, token), (state.logprobs, logprob))
    )
    # A new branch has the keys and values of its parent; those of the prompt are read where they are.
    copy = functools.partial(_rows, lambda rows: engine.model.empty_cache(rows, size), rows)
    cache = jax.lax.cond(jnp.any(made), lambda cache: copy(cache, source), lambda cache: cache, cache)
    came_of = jax.nn.one_hot(local, ways, dtype=jnp.bool_)
    state = state._replace(
        time=t + 1,
        exists=state.exists | made,
        live=jnp.where(writes, ~is_end & (t + 1 < requests.sampling.limit), state.live),
        ended=jnp.where(writes, is_end, state.ended),
        birth=jnp.where(made, t, state.birth),
        parent=jnp.where(made, local, state.parent),
        above=jnp.where(made[:, None], state.above[source] | came_of, state.above),
        lengths=jnp.where(writes, t + 1, state.lengths),
        tokens=tokens,
        logprobs=logprobs,
        cache=cache,
        sampled=state.sampled + jnp.sum(writes.reshape(-1, ways), axis=1, dtype=jnp.int32),
    )
    state = _without(state, _too_alike(state, ways, rules, spared))
    return _closed(state, engine, ways, rules)


def _two_likeliest(logits: Array) -> tuple[Array, Array]:
    """Returns their probabilities [B, 2] and their tokens [2, B]."""
    top, tokens = jax.lax.top_k(logits, 2)
    return jnp.exp(top - jax.nn.logsumexp(logits, axis=-1, keepdims=True)), tokens.T


def undecided(top: Float[Array, "B 2"], absolute: float, relative: float) -> Bool[Array, " B"]:
    """Says where the second of the two largest probabilities is large, and near to the first."""
    return (top[:, 1] > absolute) & (top[:, 0] - top[:, 1] < relative)


def new_branches(
    wants: Bool[Array, "P k"], exists: Bool[Array, "P k"], birth: Int[Array, "P k"]
) -> tuple[Int[Array, "P k"], Bool[Array, "P k"]]:
    """Returns which row each one is to be a copy of, itself or the parent of a new branch, and which are new.

    The free rows of a prompt, in their order, go to the branches that want one, the oldest first.
    """
    ways = wants.shape[1]
    order = jnp.argsort(jnp.where(wants, birth, jnp.iinfo(jnp.int32).max), axis=1, stable=True)
    place = jnp.cumsum(~exists, axis=1, dtype=jnp.int32) - 1
    new = ~exists & (place < jnp.sum(wants, axis=1, keepdims=True, dtype=jnp.int32))
    parent = jnp.take_along_axis(order.astype(jnp.int32), jnp.maximum(place, 0), axis=1)
    return jnp.where(new, parent, jnp.arange(ways, dtype=jnp.int32)[None]), new


def _too_alike(state: _Tree, ways: int, rules: _Rules, spared: Any) -> Array:
    """Says which branches go again: by the number of tokens since they parted, each is compared up to three times."""
    rows, size = state.tokens.shape
    parent = jnp.arange(rows, dtype=jnp.int32) // ways * ways + jnp.maximum(state.parent, 0)
    alike = jnp.zeros_like(state.live)
    for step in (step for step in rules.steps if step <= size):
        # Of two branches that have not ended the last tokens stand in the same places.
        due = (state.parent >= 0) & state.live & state.live[parent] & (state.time - state.birth == step)
        due &= jnp.repeat(state.open, ways)
        own = jax.lax.dynamic_slice_in_dim(state.tokens, state.time - step, step, axis=1)
        other = own[parent]
        if spared is not None:
            due &= ~spared[other[:, 0]]

        def compared(due: Array, own: Array, other: Array, step: int = step) -> Array:
            measures = (edit_distance, common_suffix, common_subsequence)
            apart, suffix, common = (measure(own, other).astype(jnp.float32) / step for measure in measures)
            return due & ((apart < rules.edit) | (suffix > rules.suffix) | (common > rules.rouge))

        alike |= jax.lax.cond(jnp.any(due), compared, lambda due, own, other: due, due, own, other)
    return alike


def _without(state: _Tree, gone: Array) -> _Tree:
    """Takes branches out of the tree, with all that came of them."""
    ways = state.above.shape[1]
    of_prompt = jnp.repeat(gone.reshape(-1, ways), ways, axis=0)
    gone = state.exists & (gone | jnp.any(state.above & of_prompt, axis=1))
    return state._replace(exists=state.exists & ~gone, live=state.live & ~gone)


def _closed(state: _Tree, engine: Engine, ways: int, rules: _Rules) -> _Tree:
    """Says which trees still grow."""
    before = state.time - 1  # the number of the token that was just sampled
    exists, live, birth = (x.reshape(-1, ways) for x in (state.exists, state.live, state.birth))
    enough = jnp.round(ways * (rules.fill - rules.decay * before.astype(jnp.float32) / engine.max_tokens))
    number = jnp.where(jnp.any(live, axis=1), jnp.sum(exists, axis=1, dtype=jnp.int32), ways)
    young = jnp.any(exists & (birth + max(rules.steps, default=0) >= before), axis=1)
    still = state.open & ~((number.astype(jnp.float32) >= enough) & ~young)
    busy = jnp.any(live & still[:, None]) & (state.time < state.tokens.shape[1])
    if engine.axis_name is not None:
        busy = jax.lax.pmax(busy.astype(jnp.int32), engine.axis_name) > 0
        busy = jax.lax.pcast(busy, engine.axis_name, to="varying")
    return state._replace(open=still, busy=busy)


def _extended(state: _Tree) -> Extended:
    """The tree as a finished phase, which branches go on from."""
    unfiltered = jnp.full_like(state.logprobs, -math.inf)
    found = (state.tokens, state.logprobs, unfiltered, state.lengths, state.ended, state.time)
    *sampled, steps = found
    return Extended(*sampled, stop=None, steps=steps, entropies=None, cache=state.cache)


def _rows(empty: Callable[[int], Any], rows: int, cache: Any, index: Array) -> Any:
    """Returns a cache's rows in another order."""
    axes = row_axes(lambda count: jax.eval_shape(functools.partial(empty, count)), rows)
    return jax.tree.map(lambda x, axis: jnp.take(x, index, axis=axis), cache, axes)


def _alone(symbols: str) -> re.Pattern[str]:
    """Matches text that is one of the symbols, with white space around it or without."""
    return re.compile(rf"\A\s*[{re.escape(symbols)}]\s*\Z")
