"""The rewards of rollouts that are no completions, and what they are made into: values of states, baselines."""

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxrl_tok.io.data import Batch as Questions
from jaxrl_tok.rewards.batch import joined, to_json
from jaxrl_tok.rollouts import SUPPLIES
from jaxrl_tok.rollouts.stop_strings import cut
from jaxrl_tok.train.evaluate import repeat
from jaxrl_tok.types import Probes, Rollouts

if TYPE_CHECKING:
    from jaxrl_tok.train.loop import Loop


def probe_arrays(loop: "Loop", method: str, questions: Questions, rollouts: Rollouts, probes: Probes) -> dict[str, Any]:
    """Returns what a method of rollouts supplies of its probes' rewards, by name. Host arrays."""
    return made(method, *probe_rewards(loop, questions, rollouts, probes), probes.cuts)


def probe_rewards(
    loop: "Loop", questions: Questions, rollouts: Rollouts, probes: Probes
) -> tuple[Float[np.ndarray, "P G M K"], Bool[np.ndarray, "P G M K"]]:
    """Returns the reward of each rollout from a state, and whether it has one.

    Each rollout is judged, behind what it went on from, as a completion is; each process judges its own questions.
    """
    pool = loop.pool
    assert pool is not None
    mine = loop.peers.share(len(questions.prompts))
    there = probes.lengths > 0
    rows = _tokens(rollouts, probes, mine, loop.data.tokenizer.eos_ids)
    texts = [cut(loop.data.tokenizer.decode(ids), loop.run.rollout.stop) for ids in rows]
    counts = there[mine].sum((1, 2, 3)).tolist()

    def scored() -> dict[str, Any]:
        columns = {name: repeat(values[mine], counts) for name, values in questions.columns.items()}
        return to_json(pool.score(repeat(questions.prompts[mine], counts), texts, columns))

    found = joined(loop.peers.exchange(scored))
    for line in found.errors:
        loop.console.warn(line.split(":")[0], line)
    rewards = np.zeros(there.shape, np.float32)
    valid = np.zeros(there.shape, bool)
    rewards[there], valid[there] = found.rewards, found.valid
    return rewards, valid


def means(
    rewards: Float[np.ndarray, "P G M K"], valid: Bool[np.ndarray, "P G M K"], cuts: Int[np.ndarray, "P G M"]
) -> Float[np.ndarray, "P G M1"]:
    """Averages over the rollouts with a reward. The prompt's state is probed once, and is that of its whole group."""
    count = valid.sum(3)
    values = np.full((*cuts.shape[:2], cuts.shape[2] + 1), np.nan, np.float32)
    total = np.where(valid, rewards, 0).sum(3, dtype=np.float64)
    values[..., :-1] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    for p in range(len(cuts)):
        start = cuts[p] == 0
        known = values[p, :, :-1][start & (count[p] > 0)]
        values[p, :, :-1][start] = known[0] if known.size else np.nan
    return values


def by_budget(
    rewards: Float[np.ndarray, "P G M K"], valid: Bool[np.ndarray, "P G M K"], cuts: Int[np.ndarray, "P G M"]
) -> Float[np.ndarray, "P G M K"]:
    """Returns the rewards of summaries at each budget.

    One that got none counts as the mean of the others of its thinking and budget, without those as that of its group
    at the budget, and as 0 where there is none at all: it moves no mean that has others.
    """
    known = np.where(valid, rewards, 0)

    def mean(axis: int | tuple[int, ...]) -> np.ndarray:
        return known.sum(axis, keepdims=True) / np.maximum(valid.sum(axis, keepdims=True), 1)

    others = np.where(valid.any(3, keepdims=True), mean(3), mean((1, 3)))
    return np.where(valid, rewards, others).astype(np.float32)


def of_greedy(
    rewards: Float[np.ndarray, "P G M K"], valid: Bool[np.ndarray, "P G M K"], cuts: Int[np.ndarray, "P G M"]
) -> Float[np.ndarray, " P"]:
    """Returns the reward of each prompt's one rollout; 0, so that nothing is subtracted, where it got none."""
    return np.where(valid, rewards, 0).astype(np.float32)[:, 0, 0, 0]


def made(
    method: str,
    rewards: Float[np.ndarray, "P G M K"],
    valid: Bool[np.ndarray, "P G M K"],
    cuts: Int[np.ndarray, "P G M"],
) -> dict[str, Any]:
    """Returns what rewards of a method's probes are made into, by name."""
    return {name: make(rewards, valid, cuts) for name, make in MADE.items() if name in SUPPLIES[method]}


# What rewards of probes are made into, by the names of docs/notation.md.
MADE = {"state_values": means, "budget_rewards": by_budget, "greedy_rewards": of_greedy}


def _tokens(rollouts: Rollouts, probes: Probes, mine: slice, end_ids: tuple[int, ...]) -> list[list[int]]:
    """The tokens of each rollout behind those that it went on from, without end tokens."""
    found = []
    for p, g, m, k in np.argwhere(probes.lengths[mine] > 0) + np.array([mine.start, 0, 0, 0]):
        before = rollouts.tokens[p, g, : probes.cuts[p, g, m]]
        row = np.concatenate([before, probes.tokens[p, g, m, k, : probes.lengths[p, g, m, k]]])
        found.append(row[~np.isin(row, end_ids)].tolist())
    return found
