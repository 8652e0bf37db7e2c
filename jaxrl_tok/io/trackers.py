"""Adapters to the programs that draw curves: TensorBoard event files and Weights & Biases.

A tracker is `log(step, metrics)` and `close()`. A run never ends because of one: when it raises, it
is reported, once, and left out from then on. `metrics.jsonl` is the record; trackers are a view of it.
"""

import importlib
import importlib.util
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.io.files import why


class Tracker(Protocol):
    """What a tracker can do."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to the curve of each metric."""

    def close(self) -> None:
        """Writes what is not yet written."""


class TensorBoard:
    """Event files under `tensorboard/` of the run folder, written by tensorboardX, without TensorFlow.

    The viewer drops the points that earlier processes wrote after `resumed_at`: no step stands twice.
    """

    def __init__(self, folder: Path, resumed_at: int | None, config: Mapping[str, Any]):
        # Not its SummaryWriter: a kill takes what waits in its queue, which a resume may not come by again.
        writer = importlib.import_module("tensorboardX.event_file_writer")
        self._events = importlib.import_module("tensorboardX.proto.event_pb2")
        self._summary = importlib.import_module("tensorboardX.proto.summary_pb2").Summary
        (folder / "tensorboard").mkdir(parents=True, exist_ok=True)
        # The file's name has the second in it; the suffix is for a resume within that second.
        suffix = "" if resumed_at is None else f".from{resumed_at}"
        self._file = writer.EventsWriter(str(folder / "tensorboard" / "events"), suffix)
        start = self._events.SessionLog
        self._write(0 if resumed_at is None else resumed_at + 1, session_log=start(status=start.START))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to the curve of each metric; it is in the file when the call returns."""
        value = self._summary.Value
        points = [value(tag=name, simple_value=float(number)) for name, number in metrics.items()]
        self._write(step, summary=self._summary(value=points))

    def close(self) -> None:
        """Closes the event file."""
        self._file.close()

    def _write(self, step: int, **content: Any) -> None:
        self._file.write_event(self._events.Event(wall_time=time.time(), step=step, **content))
        self._file.flush()


class Wandb:
    """A Weights & Biases run named after the run folder; the same folder goes on with the same run.

    It takes steps in increasing order only, so the points that a resumed run repeats are not drawn twice.
    """

    def __init__(self, folder: Path, resumed_at: int | None, config: Mapping[str, Any]):
        wandb = importlib.import_module("wandb")
        known = folder / "wandb_run_id"
        if not known.exists():
            known.write_text(uuid.uuid4().hex)
        self._run = wandb.init(
            project="jaxrl_tok",
            name=folder.name,
            id=known.read_text(),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a point to the curve of each metric."""
        self._run.log({name: float(value) for name, value in metrics.items()}, step=step)

    def close(self) -> None:
        """Finishes the upload."""
        self._run.finish()


TRACKERS: dict[str, tuple[Callable[[Path, int | None, Mapping[str, Any]], Tracker], str]] = {
    "tensorboard": (TensorBoard, "tensorboardX"),
    "wandb": (Wandb, "wandb"),
}


class Trackers:
    """Several trackers as one.

    Args:
        names: from `TRACKERS`.
        folder: the run folder.
        resumed_at: the step of the restored checkpoint, None for a run that starts.
        config: the resolved config, shown beside the curves.
        warn: called with one line about a tracker that fails.

    Raises:
        ConfigError: an unknown name, or one whose package is not installed.
    """

    def __init__(
        self,
        names: Iterable[str],
        folder: str | Path,
        *,
        resumed_at: int | None = None,
        config: Mapping[str, Any],
        warn: Callable[[str], None],
    ):
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        for name in names:
            if name not in TRACKERS:
                raise ConfigError(f"run.trackers: unknown tracker {name!r}; {nearest(name, TRACKERS)}")
            make, package = TRACKERS[name]
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"run.trackers: {name!r} needs the package {package};"
                    " run the command through `tools/run --extra track`, or take the tracker out"
                )
            try:
                self._open[name] = make(Path(folder).absolute(), resumed_at, config)
            except Exception as error:
                self._leave_out(name, error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gives the metrics of a step to each tracker."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.log(step, metrics)
            except Exception as error:
                self._leave_out(name, error)

    def close(self) -> None:
        """Closes each tracker."""
        for name, tracker in list(self._open.items()):
            try:
                tracker.close()
            except Exception as error:
                self._leave_out(name, error)
        self._open.clear()

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        self._warn(f"tracker {name} failed and is left out from here on: {why(error)}")
