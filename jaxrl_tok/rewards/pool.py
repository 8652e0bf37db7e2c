"""Scores completions in worker processes that can hang, crash and be killed without harm to the run."""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from jaxrl_tok.errors import RewardError, nearest
from jaxrl_tok.rewards import REWARDS
from jaxrl_tok.rewards.batch import Board, RewardBatch, collect, failure
from jaxrl_tok.rewards.call import GIVEN, bind, check_name, label
from jaxrl_tok.rewards.inbox import Inbox
from jaxrl_tok.rewards.process import Worker, wait

Column: TypeAlias = Sequence | np.ndarray
PROBES = 8  # samples that fail, with none answered ever, before a function counts as broken
BROKEN_BATCHES = 3  # batches in a row without an answer before a function that once worked does


@dataclasses.dataclass(frozen=True)
class RewardSpec:
    """A reward of a run: a built-in name or `module:function`, its weight, its keyword-only options.

    Weight 0 logs the reward without training on it: then its failures leave the samples valid.
    """

    name: str
    function: str
    weight: float = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_table(cls, name: str, table: Mapping[str, Any]) -> "RewardSpec":
        """Reads a table `[reward.NAME]`: `function`, `weight`; every other key is an option.

        Raises:
            RewardError: there is no function, or the weight is not a number.
        """
        function, weight = table.get("function"), table.get("weight", 1.0)
        if not isinstance(function, str):
            hint = f"{nearest('', REWARDS)}, or module:function"
            raise RewardError(f"reward {name!r} has no `function`; {hint}")
        if isinstance(weight, bool) or not isinstance(weight, int | float):
            raise RewardError(f"reward {name!r}: weight is {weight!r}, expected a number")
        options = {k: v for k, v in table.items() if k not in ("function", "weight")}
        return cls(name, function, float(weight), options)

    @property
    def label(self) -> str:
        """How errors name it."""
        return label(self.name, self.function)


def check(specs: Sequence[RewardSpec]) -> None:
    """Checks what can be without importing the user's code.

    Raises:
        RewardError: no rewards, a name twice, an unknown built-in, a weight that is no number, an option
            that a built-in reward does not have.
    """
    if not specs:
        raise RewardError('no reward is given; add a table [reward.NAME] with function = "verifier"')
    names = [spec.name for spec in specs]
    for spec in specs:
        if names.count(spec.name) > 1:
            raise RewardError(f"reward {spec.name!r} is given twice")
        if not math.isfinite(spec.weight):
            raise RewardError(f"{spec.label}: weight is {spec.weight}, expected a finite number")
        check_name(spec.name, spec.function)
        if spec.function in REWARDS:
            bind(spec.label, REWARDS[spec.function], spec.options)
        _plain(f"{spec.label}: option", dict(spec.options))


class RewardPool:
    """Worker processes for the rewards of a run, started without waiting; a context manager.

    Create it before jax starts, so that importing the user's code overlaps with compilation; `ready`
    waits, and reports what is wrong with that code. A function gets the samples of a batch in chunks of at
    most `chunk`. A chunk that raises, outlasts `timeout` or kills its worker is scored again sample by
    sample, each with `timeout` seconds, so that exactly the guilty samples fail.

    Args:
        specs: the rewards.
        workers: how many processes.
        timeout: seconds for a chunk, and for each sample when tried alone.
        chunk: most samples of a call.
        start_timeout: seconds for a worker to import the reward functions.
        paths: folders to import from first, such as the run file's.
        warm_up: functions without arguments, as module:function, that a worker calls before any clock
            starts, for imports that would otherwise happen in the first call.
    """

    def __init__(
        self,
        specs: Sequence[RewardSpec],
        *,
        workers: int = 2,
        timeout: float = 10.0,
        chunk: int = 16,
        start_timeout: float = 120.0,
        paths: Sequence[str | os.PathLike] = (),
        warm_up: Sequence[str] = (),
    ) -> None:
        check(specs)
        for name, value in {"workers": workers, "timeout": timeout, "chunk": chunk}.items():
            if value <= 0:
                raise RewardError(f"the rewards' {name} is {value}, expected more than 0")
        self._specs, self._timeout, self._chunk = tuple(specs), timeout, chunk
        self._start_timeout = start_timeout
        self._takes: list[tuple[list[str], list[str], bool]] = []
        self._answered = [False] * len(specs)  # ever
        self._broken = [0] * len(specs)  # batches in a row without an answer
        functions = [
            {"name": s.name, "function": s.function, "options": _plain(f"{s.label}: option", dict(s.options))}
            for s in specs
        ]
        folders = [str(Path(p).resolve()) for p in paths]
        greeting = {"paths": folders, "warm_up": list(warm_up), "functions": functions}
        self._workers = [Worker(greeting, start_timeout) for _ in range(workers)]

    def __enter__(self) -> "RewardPool":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills the workers and all that they started."""
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def ready(self, columns: Iterable[str] | None = None) -> None:
        """Waits until every worker has imported the functions; checks that the data has their columns.

        Raises:
            RewardError: a function cannot be imported or called, an option or a column does not exist.
        """
        if not self._workers:
            raise RewardError("the reward pool is closed")
        while waiting := [worker for worker in self._workers if not worker.ready]:
            for worker, answer in wait(waiting):
                self._started(worker, answer)
        if columns is not None:
            self._check_columns(list(columns))

    def score(
        self, prompts: Sequence, completions: Sequence[str], columns: Mapping[str, Column] | None = None
    ) -> RewardBatch:
        """Scores N completions; `columns` holds N values by name, which reach the functions that take them.

        Takes at most about (chunks + samples) * timeout / workers seconds, should every call hang, and
        two restarts of a worker for each that does.

        Raises:
            RewardError: a column is missing or cannot be passed on; or a function is broken: it failed on
                each of the first samples (at most 8, from different chunks) of a run, or, having worked
                before, on every sample of three batches in a row.
        """
        board, data = self.opened(prompts, {} if columns is None else columns)
        if len(completions) != len(prompts):
            raise RewardError(f"'completions' has {len(completions)} values for {len(prompts)} prompts")
        data["completions"] = list(completions)
        board.add(range(len(prompts)))
        self.work(board, data)
        return self.collected(board, prompts)

    def opened(self, prompts: Sequence, columns: Mapping[str, Column]) -> tuple[Board, dict[str, list]]:
        """Returns a board without tasks, and the data of the samples but for their completions."""
        self.ready(columns)
        for name, values in columns.items():
            if len(values) != len(prompts):
                raise RewardError(f"{name!r} has {len(values)} values for {len(prompts)} prompts")
        wanted = self._wanted(columns)
        data = {k: _plain(f"column {k!r}", list(v)) for k, v in columns.items() if k in wanted}
        data |= {"prompts": _plain("the prompts", list(prompts)), "completions": [""] * len(prompts)}
        # Spread a small batch over all workers.
        chunk = min(self._chunk, max(1, math.ceil(len(prompts) / len(self._workers))))
        return Board(len(prompts), len(self._specs), chunk), data

    def collected(self, board: Board, prompts: Sequence) -> RewardBatch:
        """Returns the rewards of a board on which all is scored.

        Raises:
            RewardError: a function is broken.
        """
        for k in range(len(self._specs)):
            self._judge(board, k)
        return collect(
            board,
            names=[spec.name for spec in self._specs],
            labels=[spec.label for spec in self._specs],
            weights=[spec.weight for spec in self._specs],
            prompts=prompts,
            timeout=self._timeout,
        )

    def work(self, board: Board, data: Mapping[str, list], inbox: Inbox | None = None) -> None:
        """Scores what is on the board, and what comes into the inbox until that is closed.

        Raises:
            RewardError: a function is broken.
        """
        try:
            while board.tasks or any(worker.task for worker in self._workers) or (inbox and inbox.is_open):
                if inbox is not None:
                    inbox.empty_onto(board, data)
                for worker in self._workers:
                    if board.tasks and worker.ready and worker.task is None:
                        worker.task = board.next()
                        worker.send(self._request(worker.task, data), self._timeout)
                if not any(worker.waiting for worker in self._workers) and not (inbox and inbox.is_open):
                    continue
                for worker, answer in wait(self._workers, inbox and inbox.wake):
                    if worker.task is None:
                        self._started(worker, answer)
                    else:
                        task, worker.task = worker.task, None
                        board.settle(task, answer)
                        self._stop_if_hopeless(board, task.function)
        finally:
            for worker in self._workers:
                if worker.task is not None:  # an exception left it busy
                    worker.restart()

    def _request(self, task: Any, data: Mapping[str, list]) -> dict:
        arguments, _, takes_all = self._takes[task.function]
        names = [k for k in data if takes_all or k in arguments or k in GIVEN]
        part = {k: [data[k][i] for i in task.samples] for k in names}
        return {
            "function": task.function,
            "prompts": part.pop("prompts"),
            "completions": part.pop("completions"),
            "columns": part,
        }

    def _started(self, worker: Worker, answer: Mapping[str, Any]) -> None:
        kind = answer["kind"]
        if kind == "ready":
            self._takes = answer["takes"]
            return
        self.close()
        names = ", ".join(spec.function for spec in self._specs)
        raise RewardError(
            {
                "refused": answer["message"],
                "timed_out": f"importing {names} took longer than {self._start_timeout:g} s",
                "died": f"a worker ended while it imported {names}: it {answer['message']}",
            }[kind]
        )

    def _check_columns(self, columns: Sequence[str]) -> None:
        for name in GIVEN:
            if name in columns:
                raise RewardError(f"the data has a column {name!r}, but rewards get that from the run; rename it")
        for spec, (_, required, _) in zip(self._specs, self._takes, strict=True):
            for name in required:
                if name not in columns:
                    hint = nearest(name, columns) if columns else "it has none"
                    raise RewardError(f"{spec.label}: the data has no column {name!r}; {hint}")

    def _wanted(self, columns: Iterable[str]) -> set[str]:
        everything = any(takes_all for _, _, takes_all in self._takes)
        named = {name for arguments, _, _ in self._takes for name in arguments}
        return set(columns) if everything else named.intersection(columns)

    def _stop_if_hopeless(self, board: Board, k: int) -> None:
        # What ends first may be what fails: of completions that are still sampled nothing is known.
        if self._answered[k] or board.answered(k) or board.untried[k] or board.to_come:
            return
        failed = board.failed(k)
        if failed >= min(PROBES, len(board.outcome)):
            line = failure(board, k, self._specs[k].label, self._timeout)
            raise RewardError(f"{line}; it has answered for no sample yet and failed on {failed}")

    def _judge(self, board: Board, k: int) -> None:
        answered = board.answered(k) or not len(board.outcome)
        self._answered[k] |= board.answered(k)
        self._broken[k] = 0 if answered else self._broken[k] + 1
        if self._broken[k] >= BROKEN_BATCHES:
            line = failure(board, k, self._specs[k].label, self._timeout)
            raise RewardError(f"{line}; it failed on every sample of {BROKEN_BATCHES} batches in a row")


def _plain(what: str, value: Any) -> Any:
    """Returns the value as JSON holds it: arrays and NumPy scalars become lists and numbers."""
    try:
        return json.loads(json.dumps(value, default=_as_list))
    except (TypeError, ValueError) as error:
        raise RewardError(f"{what} cannot be passed to rewards: {error}") from None


def _as_list(value: Any) -> Any:
    if hasattr(value, "tolist"):  # of NumPy and JAX
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
