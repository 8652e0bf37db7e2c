"""What a run leaves to read: a line a step in `metrics.jsonl`, a line a completion in `completions.jsonl`."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from jaxrl_tok.io.files import reported

FILES = ("metrics.jsonl", "completions.jsonl")


@dataclass(frozen=True)
class Completion:
    """One completion as a reader wants to see it."""

    prompt: str
    completion: str
    reward: float | None  # None: it has none, `outcome` tells why
    parts: Mapping[str, float | None] = field(default_factory=dict)  # the score of each reward function
    advantage: float | None = None  # mean over its tokens
    truncated: bool = False
    outcome: str = "scored"  # or abstained, timed_out, crashed


class MetricsLog:
    """Appends to the two files of a run folder; a line is on the disk when the call that writes it returns.

    Numbers are written so that reading them gives the same float64, and so the same float32, again. JSON has
    no NaN and no infinity: they are `null`, and `{"loss": null, "nonfinite": {"loss": "nan"}}` says which.

    Raises:
        CheckpointError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute()
        self._files: dict[str, BinaryIO] = {}
        with reported(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                # Unbuffered, so that a write that failed is not tried again when the file is closed.
                self._files[name] = (self.folder / name).open("ab", buffering=0)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Adds the line of `step` to `metrics.jsonl`; values are numbers or arrays of one."""
        self._append("metrics.jsonl", [{"step": step, **{name: _number(value) for name, value in metrics.items()}}])

    def write_completions(self, step: int, completions: Iterable[Completion]) -> None:
        """Adds a line for each completion to `completions.jsonl`."""
        self._append("completions.jsonl", [{"step": step, **asdict(completion)} for completion in completions])

    def cut(self, step: int | None) -> None:
        """Drops every line after `step` (None: every line) and a half-written one, before a run goes on."""
        for name in FILES:
            with reported(self.folder / name):
                _cut(self.folder / name, -math.inf if step is None else step)

    def close(self) -> None:
        """Closes both files."""
        for file in self._files.values():
            file.close()

    def _append(self, name: str, rows: list[dict[str, Any]]) -> None:
        left = memoryview(b"".join(map(_line, rows)))
        with reported(self.folder / name):
            while left:
                left = left[self._files[name].write(left) :]
            os.fsync(self._files[name].fileno())


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Returns the lines of either file as they were written, NaN and infinities included."""
    rows = [json.loads(line) for line in Path(path).read_bytes().splitlines()]
    return [row | {name: float(value) for name, value in row.pop("nonfinite", {}).items()} for row in rows]


def _number(value: Any) -> float | int:
    return value.item() if hasattr(value, "item") else value


def _line(row: dict[str, Any]) -> bytes:
    nonfinite = {name: str(value) for name, value in row.items() if _is_nonfinite(value)}
    if nonfinite:
        row = row | dict.fromkeys(nonfinite) | {"nonfinite": nonfinite}
    # A lone surrogate has no UTF-8; written as backslash and digits it is the JSON escape of itself.
    return json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def _is_nonfinite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _cut(path: Path, last: int | float) -> None:
    # Lines are in the order of their steps, so what has to go is the end of the file.
    position = end = 0
    with path.open("rb") as file:
        for line in file:
            position += len(line)
            if line.endswith(b"\n") and _step(line) <= last:
                end = position
    if end < position:
        os.truncate(path, end)


def _step(line: bytes) -> int | float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return math.inf
