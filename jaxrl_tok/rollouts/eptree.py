"""Trees that branch where a token was a surprise: the rollouts of TreeRL."""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxrl_tok import models
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import (
    Contains,
    Engine,
    Extended,
    Requests,
    extend,
    fork,
    from_prompts,
)
from jaxrl_tok.rollouts.generate import as_rollouts
from jaxrl_tok.rollouts.joined import beside, spliced
from jaxrl_tok.types import Sampled, Sampling

# `node_rewards` are made of the others and of the rewards.
SUPPLIES = frozenset({"node_ids", "node_parents", "node_rewards", "multiplicity"})


def check(
    group: int, max_tokens: int, contains: Contains, *, chains: int, positions: int, rounds: int, branches: int
) -> None:
    """Refuses trees that do not fit into a run.

    Raises:
      ConfigError: a number below 1, a group that is not all of the leaves, more places than a completion has tokens.
    """
    numbers = {"chains": chains, "positions": positions, "rounds": rounds, "branches": branches}
    for name, value in numbers.items():
        if value < 1:
            raise ConfigError(f"{name} = {value}: expected at least 1")
    leaves = chains * (1 + positions * rounds * branches)
    if group != leaves:
        has = ", ".join(f"{name} = {value}" for name, value in numbers.items())
        raise ConfigError(f"{has}: {leaves} leaves; expected as many as rollout.group = {group}")
    if positions > max_tokens:
        raise ConfigError(f"positions = {positions}: expected at most rollout.max_tokens = {max_tokens}")


def eptree(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    chains: int = 6,
    positions: int = 2,
    rounds: int = 1,
    branches: int = 2,
    stop_words: list[str] | tuple[str, ...] = ("answer", "conclusion"),
) -> Sampled:
    """Samples completions, then in each round `branches` others from before each of their most surprising tokens.

        G = chains (1 + positions rounds branches);   of chain c the completions from c G / chains on
        places of a round: those `positions` of a chain's tree with the largest -log p(token)

    EPTree of TreeRL, Hou et al. 2025, https://arxiv.org/abs/2506.11902, with its 6, 2, 1 and 2. A chain's tree is the
    chain and all that came of it; a place is a token of any of them, but the first token of a branch, and none behind a
    token with one of the `stop_words` in its text (in any case; an empty list has none). p is the distribution drawn
    from. Where a tree has fewer places the other leaves do not exist (their mask is empty); the code takes some twice.

    The chains are those that independent sampling gives; branches have keys of their own. All completions that others
    may go on from run at once, whatever the number of slots. A node is what lies between two places, the root the
    prompt of all chains. Also gives `node_ids`, `node_parents` and `multiplicity`.
    """
    count, group = keys.shape
    trees = count * chains
    rows = jnp.arange(trees, dtype=jnp.int32)
    own = jax.tree.map(lambda x: x[:, :chains].reshape(-1), (keys, sampling))
    requests = from_prompts(engine, rows // chains, *own)
    done = extend(engine, requests, engine.max_tokens, keep=True)
    phases, tokens = [(requests, done)], done.lengths.reshape(count, -1).sum(1, dtype=jnp.int32)
    nothing = jnp.zeros((trees, 1), jnp.int32)
    members = _Members(done, nothing, nothing - 1, jnp.zeros((trees, 1, engine.max_tokens), bool))
    stops = _stops(engine, stop_words)
    for number in range(rounds):
        places = _places(members, stops, positions, trees)
        below, row, kept = _forked(phases, members, places, branches, number)
        done = extend(engine, below, engine.max_tokens, keep=number < rounds - 1)
        tokens = tokens + done.lengths.reshape(count, -1).sum(1, dtype=jnp.int32)
        members = _grown(members, places, done, row, kept, below.wanted, branches)
        phases.append((below, done))
    heat = jnp.repeat(sampling.temperature[:, :chains], group // chains, axis=1)
    rollouts = as_rollouts(members.whole, dataclasses.replace(sampling, temperature=heat))
    return Sampled(rollouts, _nodes(members, count, positions * rounds), tokens)


class _Members(NamedTuple):
    """The completions of R trees, m of each: the chain, then what came of it, round by round."""

    whole: Extended  # [R * m]; no token = does not exist
    start: Int[Array, "R m"]  # tokens that it has of its parent
    parent: Int[Array, "R m"]  # its number in the tree, -1 of the chain
    cuts: Bool[Array, "R m T"]  # the places: own tokens of the completion before which others go on

    def by_tree(self, x: Array) -> Array:
        return x.reshape(*self.start.shape, *x.shape[1:])

    @property
    def own(self) -> Bool[Array, "R m T"]:
        """Which tokens are the completion's own."""
        time = jnp.arange(self.whole.tokens.shape[1], dtype=jnp.int32)[None, None]
        return (time >= self.start[:, :, None]) & (time < self.by_tree(self.whole.lengths)[:, :, None])


class _Places(NamedTuple):
    """The N places of a round in each of R trees."""

    member: Int[Array, "R N"]
    time: Int[Array, "R N"]
    found: Bool[Array, "R N"]


def _stops(engine: Engine, words: Sequence[str]) -> Bool[Array, " V"] | None:
    if not words:
        return None
    return jnp.asarray(engine.contains(re.compile("|".join(map(re.escape, words)), re.IGNORECASE)))


def _places(members: _Members, stops: Bool[Array, " V"] | None, positions: int, trees: int) -> _Places:
    """Finds the most surprising tokens of each tree; of equal ones those of older completions, then earlier ones."""
    size = members.whole.tokens.shape[1]
    time = jnp.arange(size, dtype=jnp.int32)[None, None]
    allowed = members.own & ((time > members.start[:, :, None]) | (members.parent[:, :, None] < 0))
    if stops is not None:
        found = members.own & stops[members.by_tree(members.whole.tokens)]
        allowed &= jnp.cumsum(found, axis=2, dtype=jnp.int32) - found.astype(jnp.int32) == 0
    surprise = jnp.where(allowed, -members.by_tree(members.whole.logprobs), -jnp.inf)
    value, at = jax.lax.top_k(surprise.reshape(trees, -1), positions)
    member, time = jnp.divmod(at.astype(jnp.int32), size)
    return _Places(member, time, value > -jnp.inf)


def _forked(
    phases: Sequence[tuple[Requests, Extended]], members: _Members, places: _Places, branches: int, number: int
) -> tuple[Requests, Array, Array]:
    """Returns the branches of a round, by tree, place and number, which completions they go on from, and from where."""
    trees, positions = places.member.shape
    later = positions * branches  # completions of a tree in each round
    row, branch = jnp.divmod(jnp.arange(trees * later, dtype=jnp.int32), branches)
    tree = row // positions
    member, time, wanted = (x.reshape(-1)[row] for x in places)
    kept = jnp.where(wanted, time, 0)
    new = number * branches + branch + 1  # a place may be taken again in a later round
    phase = (member + later - 1) // later
    found: list[Requests] = []
    for i, (requests, done) in enumerate(phases):
        here = wanted & (phase == i)
        parent = tree if i == 0 else tree * later + (member - 1) % later
        own = jnp.where(here, kept - members.start[tree, member], 0)
        one = fork(requests, done, jnp.where(here, parent, 0), own, new, wanted)
        none = jnp.zeros_like(row)
        unseen = (models.Level(other.cache, none, none, none) for _, other in phases[i + 1 :])
        found.append(dataclasses.replace(one, levels=(*one.levels, *unseen)))

    def chosen(first: Array, *rest: Array) -> Array:
        return functools.reduce(lambda x, i: jnp.where(phase == i[0], i[1], x), enumerate(rest, 1), first)

    levels = tuple(
        models.Level(same[0].cache, *(chosen(*(getattr(x, name) for x in same)) for name in ("row", "start", "end")))
        for same in zip(*(one.levels for one in found), strict=True)
    )
    bare = [dataclasses.replace(one, levels=()) for one in found]
    return dataclasses.replace(jax.tree.map(chosen, *bare), levels=levels), tree * members.start.shape[1] + member, kept


def _grown(
    members: _Members, places: _Places, done: Extended, row: Array, kept: Array, wanted: Array, branches: int
) -> _Members:
    """Adds the completions of a round to their trees."""
    trees = places.member.shape[0]
    new = spliced(members.whole, row, kept, done)
    new = new._replace(ended=new.ended | ~wanted)  # what does not exist was not cut off
    _, older, size = members.cuts.shape
    member = jnp.where(places.found, places.member, older)  # out of range = dropped
    cuts = members.cuts.at[jnp.arange(trees)[:, None], member, places.time].set(True, mode="drop")
    none = jnp.zeros((trees, places.member.shape[1] * branches, size), bool)
    return _Members(
        whole=beside((members.whole, new), trees),
        start=jnp.concatenate([members.start, kept.reshape(trees, -1)], axis=1),
        parent=jnp.concatenate([members.parent, jnp.repeat(places.member, branches, axis=1)], axis=1),
        cuts=jnp.concatenate([cuts, none], axis=1),
    )


def _nodes(members: _Members, prompts: int, cuts: int) -> dict[str, Array]:
    """The nodes: of each completion in turn the pieces of its own tokens, behind the root; places for them all."""
    trees, size, _ = members.cuts.shape
    pieces = cuts + 1
    # A place before the first own token parts nothing: what goes on from there has the same parent.
    parts = members.cuts & members.own
    parts &= jnp.arange(members.cuts.shape[2], dtype=jnp.int32)[None, None] > members.start[:, :, None]
    chain = jnp.arange(trees, dtype=jnp.int32)[:, None] % (trees // prompts)
    first = 1 + (chain * size + jnp.arange(size, dtype=jnp.int32)[None]) * pieces
    own = first[:, :, None] + jnp.cumsum(parts, axis=2, dtype=jnp.int32)
    ids, above = [own[:, 0]], [jnp.zeros(trees, jnp.int32)]
    time = jnp.arange(members.cuts.shape[2], dtype=jnp.int32)[None]
    for m in range(1, size):  # parents stand before
        start = members.start[:, m, None]
        of_parent = jnp.stack(ids, axis=1)[jnp.arange(trees), members.parent[:, m]]
        ids.append(jnp.where(time < start, of_parent, own[:, m]))
        before = jnp.take_along_axis(of_parent, jnp.maximum(start - 1, 0), axis=1)
        above.append(jnp.where(start > 0, before, 0)[:, 0])
    number = jnp.arange(pieces, dtype=jnp.int32)[None, None]
    parents = jnp.where(number == 0, jnp.stack(above, axis=1)[:, :, None], first[:, :, None] + number - 1)
    lengths = members.by_tree(members.whole.lengths)[:, :, None]
    parents = jnp.where((lengths > 0) & (number <= jnp.sum(parts, axis=2, keepdims=True)), parents, -2)
    node_ids = jnp.where(time[None] < lengths, jnp.stack(ids, axis=1), -1)
    # Completions that share a token have it in the same place.
    sharers = jnp.sum(node_ids[:, :, None] == node_ids[:, None], axis=2, dtype=jnp.float32)
    root = jnp.full((prompts, 1), -1, jnp.int32)
    return {
        "node_ids": node_ids.reshape(prompts, -1, members.cuts.shape[2]),
        "node_parents": jnp.concatenate([root, parents.reshape(prompts, -1)], axis=1),
        "multiplicity": jnp.where(node_ids >= 0, sharers, 0).reshape(prompts, -1, members.cuts.shape[2]),
    }
