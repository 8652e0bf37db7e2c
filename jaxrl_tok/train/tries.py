"""From completions to the tries of their distinct tokens, packed into rows; on the host, in NumPy.

A trie is a prompt and what its completions have, every shared beginning once. Tries are laid into rows so that those of
one part of a batch (a microbatch of a minibatch) lie in its own rows, on every device as many, and the fullest row of
a part has as little more than the others as a greedy division gives.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrl_tok.kernels.attention import tree_from_parents
from jaxrl_tok.types import Prompts, Rollouts, Tries

# Sizes of rows within a factor of two: a row has at most 1/8 of padding more than it needs, and programs are compiled
# for at most 8 sizes where the largest batch is twice the smallest.
SIZES = 8


class _Trie(NamedTuple):
    """One prompt's trie in depth-first order, the prompt's tokens first."""

    tokens: np.ndarray  # [s]
    parents: np.ndarray  # [s], -1 for the first
    source: np.ndarray  # [n], which token of the group, of G * T, each one after the prompt was first seen as
    scored: np.ndarray  # [G, T], number of the completion's token among those after the prompt; 0 where masked


def pack(prompts: Prompts, rollouts: Rollouts, *, filtered: bool = False, parts: int = 1, shards: int = 1) -> Tries:
    """Returns the tries of host arrays, in `shards` rows for each of the `parts` that every parts-th prompt makes.

    Completions share a token when all before it are equal, and its temperature, and with `filtered` the thresholds of
    what was kept: the scores of such a token are then one. S and N are the fullest row's, rounded up by `rounded`.
    """
    thresholds = np.asarray(rollouts.keep_thresholds)
    heat = np.asarray(rollouts.temperature)
    marks = [heat if heat.ndim == 3 else np.broadcast_to(heat[:, :, None], rollouts.tokens.shape)]
    marks += [thresholds] if filtered else []
    lengths, tokens, mask = (np.asarray(x) for x in (prompts.lengths, rollouts.tokens, rollouts.mask))
    tries = [
        _trie(np.asarray(prompts.tokens)[p, -lengths[p] :], tokens[p], mask[p], [mark[p] for mark in marks])
        for p in range(len(tokens))
    ]
    row = _rows([len(trie.tokens) for trie in tries], parts, shards)
    return _packed(tries, row, parts * shards, marks[0], thresholds if filtered else None)


def rounded(size: int) -> int:
    """Returns the smallest size from `size` on of those that rows have: 8 steps for each doubling, from 64 on."""
    step = (1 << ((max(size, 64) - 1).bit_length() - 1)) // SIZES
    return max(64, -(-size // step) * step)


def _trie(
    prompt: Int[np.ndarray, " s"],
    tokens: Int[np.ndarray, "G T"],
    mask: Bool[np.ndarray, "G T"],
    marks: list[Float[np.ndarray, "G T"]],
) -> _Trie:
    group, size = tokens.shape
    lengths = mask.sum(axis=1).tolist()
    # What must agree for two completions to share a token, as bits; sorted by bytes, equal beginnings are neighbours.
    bits = [tokens, *(np.asarray(mark, np.float32).view(np.int32) for mark in marks)]
    symbols = np.stack([np.where(mask, x, -1) for x in bits], axis=2)
    order = np.argsort(symbols.reshape(group, -1).view(np.dtype((np.void, symbols[0].nbytes)))[:, 0])
    parents, source, scored = [np.arange(len(prompt)) - 1], [], np.zeros((group, size), np.int32)
    count = 0
    last: int | None = None
    for g in order.tolist():
        shared = 0 if last is None else _shared(symbols[last], symbols[g], min(lengths[last], lengths[g]))
        own = lengths[g] - shared
        if last is not None:
            scored[g, :shared] = scored[last, :shared]
        scored[g, shared : lengths[g]] = count + np.arange(own)
        if own:
            before = len(prompt) + (scored[g, shared - 1] if shared else -1)
            parents.append(np.concatenate([[before], len(prompt) + count + np.arange(own - 1)]))
            source.append(g * size + np.arange(shared, lengths[g]))
        count, last = count + own, g
    at = np.concatenate(source) if source else np.zeros(0, np.int64)
    return _Trie(np.concatenate([prompt, tokens.reshape(-1)[at]]), np.concatenate(parents), at, scored)


def _shared(a: Int[np.ndarray, "T K"], b: Int[np.ndarray, "T K"], size: int) -> int:
    """Returns how many of their first `size` tokens two completions share."""
    differ = (a[:size] != b[:size]).any(axis=1)
    return int(differ.argmax()) if differ.any() else size


def _rows(sizes: list[int], parts: int, shards: int) -> Int[np.ndarray, " P"]:
    """Returns the row of each trie: in its part's row with the fewest tokens so far, the largest tries first."""
    row, load = np.zeros(len(sizes), np.int32), np.zeros(parts * shards, np.int64)
    for p in sorted(range(len(sizes)), key=lambda p: (-sizes[p], p)):
        own = np.arange(p % parts, parts * shards, parts)
        row[p] = own[load[own].argmin()]
        load[row[p]] += sizes[p]
    return row


def _packed(
    tries: list[_Trie], row: np.ndarray, rows: int, temperature: np.ndarray, thresholds: np.ndarray | None
) -> Tries:
    here = [[p for p in range(len(tries)) if row[p] == r] for r in range(rows)]
    size = rounded(max(sum(len(tries[p].tokens) for p in own) for own in here))
    count = rounded(max(sum(len(tries[p].source) for p in own) for own in here))
    tokens, node, before, place = (np.zeros((rows, n), np.int32) for n in (size, count, count, count))
    ends, positions = np.zeros((rows, size), np.int32), np.zeros((rows, size), np.int32)
    heat, real = np.ones((rows, count), temperature.dtype), np.zeros((rows, count), bool)
    kept = None if thresholds is None else np.full((rows, count), -np.inf, thresholds.dtype)
    scored = np.stack([trie.scored for trie in tries])
    for r, own in enumerate(here):
        parents = np.full(size, -2)
        start = first = 0
        for p in own:
            trie = tries[p]
            stop, last = start + len(trie.tokens), first + len(trie.source)
            tokens[r, start:stop] = trie.tokens
            parents[start:stop] = np.where(trie.parents < 0, -1, start + trie.parents)
            node[r, first:last] = np.arange(stop - len(trie.source), stop)
            place[r, first:last] = trie.source % trie.scored.shape[1]
            heat[r, first:last] = temperature[p].reshape(-1)[trie.source]
            if kept is not None and thresholds is not None:
                kept[r, first:last] = thresholds[p].reshape(-1)[trie.source]
            scored[p] += first
            start, first = stop, last
        ends[r], positions[r] = tree_from_parents(parents)
        real[r, :first] = True
        before[r, :first] = parents[node[r, :first]]
    return Tries(tokens, ends, positions, node, before, place, heat, kept, real, row, scored)
