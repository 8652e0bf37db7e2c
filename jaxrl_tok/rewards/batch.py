"""What became of each sample of a batch under each reward, while it is scored and afterwards."""

import dataclasses
import heapq
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

OUTCOMES = ("scored", "abstained", "timed_out", "crashed")
MOST_ERRORS = 5  # lines of one batch
MOST_TIMEOUTS = 0.05  # fraction of a batch above which the user is warned


@dataclasses.dataclass(frozen=True)
class RewardBatch:
    """The rewards of N completions from K reward functions."""

    rewards: Float[np.ndarray, "N"]  # f32, weighted sum of the parts that are there; 0 where not valid
    valid: Bool[np.ndarray, "N"]  # some weighted part has a score and none timed out or crashed
    parts: Float[np.ndarray, "N K"]  # f32, unweighted; NaN where there is no score
    outcomes: Mapping[str, Mapping[str, int]]  # by reward: how many samples scored, abstained, ...
    sample_outcomes: Sequence[str]  # by sample: "scored" if valid, else the worst outcome of a weighted reward
    errors: Sequence[str]  # a few distinct lines

    def warnings(self, most: float = MOST_TIMEOUTS) -> list[str]:
        """Returns a line for each reward that timed out on more than the fraction `most` of the batch."""
        count = len(self.rewards)
        return [
            f"reward {name!r}: {o['timed_out']} of {count} samples ({o['timed_out'] / count:.0%}) timed out "
            "and do not train; raise the timeout or make it faster"
            for name, o in self.outcomes.items()
            if o["timed_out"] > most * count
        ]


def to_json(batch: RewardBatch) -> dict[str, Any]:
    """Returns the batch as values of JSON, which have every float32 exactly."""
    arrays = {"rewards": batch.rewards.tolist(), "valid": batch.valid.tolist(), "parts": batch.parts.tolist()}
    return dataclasses.asdict(batch) | arrays


def joined(tables: Sequence[Mapping[str, Any]]) -> RewardBatch:
    """Returns batches that `to_json` gave as one, in their order; all from the same reward functions."""
    names = tables[0]["outcomes"]
    rewards = np.array([x for table in tables for x in table["rewards"]], np.float32)
    parts = np.array([x for table in tables for x in table["parts"]], np.float32)
    return RewardBatch(
        rewards=rewards,
        valid=np.array([x for table in tables for x in table["valid"]], bool),
        parts=parts.reshape(len(rewards), len(names)),
        outcomes={
            name: {outcome: sum(table["outcomes"][name][outcome] for table in tables) for outcome in OUTCOMES}
            for name in names
        },
        sample_outcomes=[x for table in tables for x in table["sample_outcomes"]],
        errors=list(dict.fromkeys(line for table in tables for line in table["errors"])),
    )


def among(batch: RewardBatch, exists: Bool[np.ndarray, "N"]) -> RewardBatch:
    """Returns the batch of those completions that exist as one of all N: the others have no reward and no score."""

    def spread(values: Any, fill: Any, dtype: Any) -> np.ndarray:
        values = np.asarray(values, dtype)
        whole = np.full((len(exists), *values.shape[1:]), fill, dtype)
        whole[exists] = values
        return whole

    return dataclasses.replace(
        batch,
        rewards=spread(batch.rewards, 0, np.float32),
        valid=spread(batch.valid, False, bool),
        parts=spread(batch.parts, np.nan, np.float32),
        sample_outcomes=spread(batch.sample_outcomes, "absent", object).tolist(),
    )


def overlaid(old: RewardBatch, new: RewardBatch, where: Bool[np.ndarray, "N"]) -> RewardBatch:
    """Returns the new rewards where it is said, the old ones elsewhere; outcomes and errors are those of both."""
    names = np.where(where, np.asarray(new.sample_outcomes, object), np.asarray(old.sample_outcomes, object))
    return RewardBatch(
        rewards=np.where(where, new.rewards, old.rewards),
        valid=np.where(where, new.valid, old.valid),
        parts=np.where(where[:, None], new.parts, old.parts),
        outcomes={
            name: {outcome: count + new.outcomes[name][outcome] for outcome, count in counts.items()}
            for name, counts in old.outcomes.items()
        },
        sample_outcomes=names.tolist(),
        errors=list(dict.fromkeys([*old.errors, *new.errors])),
    )


@dataclasses.dataclass(frozen=True, order=True)
class Task:
    """Samples for one call of one reward function; the order is that of the work."""

    round: int  # 0: a chunk; i + 1: sample i of a chunk, alone (also after a death while it was idle)
    number: int
    function: int
    samples: tuple[int, ...] = dataclasses.field(compare=False)


class Board:
    """The open tasks of one batch and the outcomes so far."""

    def __init__(self, count: int, functions: int, chunk: int) -> None:
        self.values = np.full((count, functions), np.nan)
        self.outcome = np.full((count, functions), "", dtype=object)
        self.messages: dict[tuple[int, int], str] = {}  # (function, sample): why it crashed or was stopped
        self.to_come = count  # samples without a task yet
        self.untried = [0] * functions  # chunks that had no answer yet
        self.tasks: list[Task] = []
        self._chunk, self._number = chunk, 0

    def add(self, samples: Sequence[int]) -> None:
        """Opens tasks for samples, each function's in the same chunks."""
        self.to_come -= len(samples)
        for i in range(0, len(samples), self._chunk):
            for k in range(len(self.untried)):
                heapq.heappush(self.tasks, Task(0, self._number, k, tuple(samples[i : i + self._chunk])))
                self.untried[k] += 1
                self._number += 1

    def next(self) -> Task:
        """Takes an open task: first the chunks, then the first sample of each that failed, and so on."""
        return heapq.heappop(self.tasks)

    def settle(self, task: Task, answer: Mapping[str, Any]) -> None:
        """Notes the outcomes of a task, or opens a task for each of its samples to find the guilty one."""
        kind, k = answer["kind"], task.function
        self.untried[k] -= task.round == 0
        if kind == "values":
            wrong = {int(i): message for i, message in answer["wrong"].items()}
            for i, (sample, score) in enumerate(zip(task.samples, answer["scores"], strict=True)):
                if i in wrong:
                    self._fail("crashed", k, sample, wrong[i])
                else:
                    self.values[sample, k] = np.nan if score is None else score
                    self.outcome[sample, k] = "abstained" if score is None else "scored"
        elif kind == "broken" or task.round > 0 or (len(task.samples) == 1 and kind != "died"):
            outcome = "timed_out" if kind == "timed_out" else "crashed"
            prefix = "its process " if kind == "died" else ""
            for sample in task.samples:
                self._fail(outcome, k, sample, prefix + answer["message"])
        else:
            for i, sample in enumerate(task.samples):
                heapq.heappush(self.tasks, Task(i + 1, task.number, k, (sample,)))

    def _fail(self, outcome: str, function: int, sample: int, message: str) -> None:
        self.outcome[sample, function] = outcome
        self.messages[function, sample] = message

    def answered(self, function: int) -> bool:
        """Whether any sample was scored, or abstained from, so far."""
        return bool(np.isin(self.outcome[:, function], OUTCOMES[:2]).any())

    def failed(self, function: int) -> int:
        """Returns how many samples timed out or crashed so far."""
        return int(np.isin(self.outcome[:, function], OUTCOMES[2:]).sum())


def collect(
    board: Board,
    names: Sequence[str],
    labels: Sequence[str],
    weights: Sequence[float],
    prompts: Sequence,
    timeout: float,
) -> RewardBatch:
    """Sums up a finished board."""
    weight = np.asarray(weights, np.float64)
    scored = board.outcome == "scored"
    failed = (board.outcome == "timed_out") | (board.outcome == "crashed")
    counts = weight != 0
    valid = (scored & counts).any(1) & ~(failed & counts).any(1)
    total = np.where(scored, board.values, 0.0) @ weight
    outcomes = {name: {o: int((board.outcome[:, k] == o).sum()) for o in OUTCOMES} for k, name in enumerate(names)}
    with np.errstate(over="ignore"):  # a sum beyond float32 is an infinite reward, and then an infinite loss
        rewards = np.where(valid, total, 0.0).astype(np.float32)
    worst = np.full(len(valid), "abstained", dtype=object)
    for outcome in OUTCOMES[2:]:
        worst[((board.outcome == outcome) & counts).any(1)] = outcome
    return RewardBatch(
        rewards=rewards,
        valid=valid,
        parts=board.values.astype(np.float32),
        outcomes=outcomes,
        sample_outcomes=np.where(valid, "scored", worst).tolist(),
        errors=_errors(board, labels, prompts, timeout),
    )


def failure(board: Board, function: int, label: str, timeout: float) -> str:
    """Returns what the first failed sample of a function met."""
    sample = min(i for k, i in board.messages if k == function)
    if board.outcome[sample, function] == "timed_out":
        return f"{label}: timed out after {timeout:g} s"
    return f"{label}: {board.messages[function, sample]}"


def _errors(board: Board, labels: Sequence[str], prompts: Sequence, timeout: float) -> list[str]:
    samples: dict[str, list[int]] = {}
    for (k, sample), message in sorted(board.messages.items()):
        late = board.outcome[sample, k] == "timed_out"
        line = f"{labels[k]}: " + (f"timed out after {timeout:g} s" if late else message)
        samples.setdefault(line, []).append(sample)
    lines = [
        f"{line}; {len(hit)} of {len(prompts)} samples, first prompt {str(prompts[hit[0]])[:80]!r}"
        for line, hit in samples.items()
    ]
    more = len(lines) - MOST_ERRORS
    return lines[:MOST_ERRORS] + ([f"and {more} more kinds of failure"] if more > 0 else [])
