"""Completions that branch after every so many tokens: the rollouts of SPO-tree."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import Contains, Engine, Extended, Requests, extend, fork, from_prompts
from jaxrl_tok.types import Leaf, Rollouts, Sampled, Sampling

# `node_rewards` are made of the others and of the rewards.
SUPPLIES = frozenset({"node_ids", "node_parents", "node_rewards", "multiplicity"})


def check(
    group: int, max_tokens: int, contains: Contains, *, branches: list[int] | tuple[int, ...], segment_tokens: int
) -> None:
    """Refuses a tree that is none, or does not fit into a run.

    Raises:
      ConfigError: no branches, a group that is not the tree's leaves, segments that leave no token to the last ones.
    """
    if not branches or min(branches) < 1:
        raise ConfigError(f"branches = {list(branches)}: expected a list of numbers of at least 1")
    if group != math.prod(branches):
        has = f"has {math.prod(branches)} leaves"
        raise ConfigError(f"branches = {list(branches)}: {has}; expected as many as rollout.group = {group}")
    most = (max_tokens - 1) // max(len(branches) - 1, 1)
    if segment_tokens < 1 or (len(branches) > 1 and segment_tokens > most):
        raise ConfigError(
            f"segment_tokens = {segment_tokens}: expected 1 to {most}: {len(branches) - 1} segments and a token more "
            f"within rollout.max_tokens = {max_tokens}"
        )


def nodes(
    group: int,
    max_tokens: int,
    *,
    branches: list[int] | tuple[int, ...] = (6, 6, 6),
    segment_tokens: int = 100,
) -> Int[np.ndarray, "G T"]:
    """Returns the number of each token's node, as in `node_ids`, of a tree in which no node ends early."""
    counts = np.cumprod(branches)
    depth = np.minimum(np.arange(max_tokens) // segment_tokens, len(branches) - 1)
    before = 1 + np.concatenate([[0], np.cumsum(counts[:-1])])
    return (before[depth] + np.arange(group)[:, None] // (group // counts)[depth]).astype(np.int32)


def spo_tree(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    branches: list[int] | tuple[int, ...] = (6, 6, 6),
    segment_tokens: int = 100,
) -> Sampled:
    """Samples a tree a prompt: `branches[d]` ways on from each node of depth d, the last ones to the end.

        G = prod branches;   completion g is the path to leaf g, numbered by the branches on its way

    SPO-tree, Guo et al. 2025, https://arxiv.org/abs/2505.23564, with the 6-6-6 of its code and the 100 tokens of its
    short answers. A node has `segment_tokens` tokens, or fewer where the completion ends: then it is one leaf, the
    completion of its first descendant, and the others do not exist (their mask is empty); what they would have cost is
    not spent elsewhere. The first branch of a node goes on as the node would have, and branches of the prompt have the
    keys of samples 0, 1, ...: with branches of (G, 1, 1) these are the completions that G independent ones are. Each
    leaf by itself is distributed as an independent completion is.

    All nodes of a depth but the last run at once, whatever the number of slots, since the next ones read their keys
    and values. Also gives `node_ids`, `node_parents` and `multiplicity`.
    """
    prompts, group = keys.shape
    shares = [math.prod(branches[: d + 1]) for d in range(len(branches))]
    first = jax.tree.map(lambda x: x[:, :: group // shares[0]].reshape(-1), sampling)
    rows = jnp.arange(prompts * shares[0], dtype=jnp.int32)
    requests = from_prompts(engine, rows // shares[0], keys[:, : shares[0]].reshape(-1), first)
    parts: list[_Depth] = []
    for d, share in enumerate(shares):
        last = d == len(shares) - 1
        size = engine.max_tokens - d * segment_tokens if last else segment_tokens
        left = requests.sampling.limit
        cut = dataclasses.replace(requests.sampling, limit=jnp.minimum(left, size))
        done = extend(engine, dataclasses.replace(requests, sampling=cut), size, keep=not last)
        goes_on = (done.lengths == size) & ~done.ended & (left > size)
        parts.append(_Depth(done, share, goes_on))
        if not last:
            requests = _below(requests, done, branches[d + 1], goes_on)
    return _collected(parts, sampling.temperature, segment_tokens)


def _below(requests: Requests, done: Extended, ways: int, goes_on: Bool[Array, " N"]) -> Requests:
    """The next nodes: so many ways on from each that goes on."""
    row, branch = jnp.divmod(jnp.arange(len(goes_on) * ways, dtype=jnp.int32), ways)
    return fork(requests, done, row, done.lengths[row], branch, goes_on[row])


@dataclasses.dataclass(frozen=True)
class _Depth:
    """The nodes of one depth, N of them for each prompt."""

    done: Extended
    nodes: int
    goes_on: Leaf  # bool[P * N]

    def of_leaves(self, x: Array, group: int) -> Array:
        """Returns for each completion `[P, G, ...]` what is so of its node of this depth."""
        x = x.reshape(-1, self.nodes, *x.shape[1:])
        return jnp.repeat(x, group // self.nodes, axis=1)


def _collected(parts: Sequence[_Depth], temperature: Float[Array, "P G"], segment_tokens: int) -> Sampled:
    """Lays the depths of a tree side by side: a node that goes on has all its tokens."""
    count, group = temperature.shape
    leaf = jnp.arange(group, dtype=jnp.int32)[None]
    exists, ended = jnp.ones((count, group), bool), jnp.zeros((count, group), bool)
    for part in parts:
        exists &= part.of_leaves(part.goes_on, group) | (leaf % (group // part.nodes) == 0)
        ended |= part.of_leaves(part.done.ended, group)
    whole = {
        name: jnp.concatenate([part.of_leaves(getattr(part.done, name), group) for part in parts], axis=2)
        for name in ("tokens", "logprobs", "thresholds")
    }
    sizes = [part.done.tokens.shape[1] for part in parts]
    lengths = sum((part.of_leaves(part.done.lengths, group) for part in parts), jnp.zeros((count, group), jnp.int32))
    mask = (jnp.arange(sum(sizes))[None, None] < lengths[..., None]) & exists[..., None]
    rollouts = Rollouts(
        tokens=whole["tokens"],
        mask=mask,
        truncated=exists & ~ended,
        sampler_logprobs=whole["logprobs"],
        keep_thresholds=whole["thresholds"],
        temperature=temperature,
    )
    sampled = [part.done.lengths.reshape(count, -1).sum(1, dtype=jnp.int32) for part in parts]
    return Sampled(rollouts, _nodes(parts, exists, mask), sum(sampled[1:], sampled[0]))


def _nodes(parts: Sequence[_Depth], exists: Bool[Array, "P G"], mask: Bool[Array, "P G T"]) -> dict[str, Array]:
    """The nodes, by depth and then in the order of their leaves, behind the root."""
    count, group = exists.shape
    ids, shared, parents = [], [], [jnp.full((count, 1), -1, jnp.int32)]
    before, above = 1, 0  # numbers of the first nodes of this depth and of the one above
    for part in parts:
        node = jnp.arange(part.nodes, dtype=jnp.int32)
        ways = part.nodes // parents[-1].shape[1]
        parents.append(jnp.where(part.done.lengths.reshape(count, -1) > 0, above + node[None] // ways, -2))
        shape = (count, group, part.done.tokens.shape[1])
        number = jnp.repeat(before + node, group // part.nodes)[None, :, None]
        ids.append(jnp.broadcast_to(number, shape))
        sharers = jnp.sum(exists.reshape(count, part.nodes, -1), axis=2, dtype=jnp.float32)
        shared.append(jnp.broadcast_to(part.of_leaves(sharers.reshape(-1), group)[..., None], shape))
        before, above = before + part.nodes, before
    return {
        "node_ids": jnp.where(mask, jnp.concatenate(ids, axis=2), -1),
        "node_parents": jnp.concatenate(parents, axis=1),
        "multiplicity": jnp.where(mask, jnp.concatenate(shared, axis=2), 0),
    }
