"""Checkpoints of a run: saved in the background, sealed, and only then allowed to replace older ones.

    checkpoints/120/{state,host}/...    one Orbax checkpoint a step
    checkpoints/120/SHA256SUMS          its seal; without it the step counts as half-written

Orbax is imported at the first save or restore: it takes a second that the first step need not wait for.
"""

import contextlib
import fcntl
import functools
import json
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrl_tok.errors import CheckpointError, ConfigError
from jaxrl_tok.io import leaves, manifest
from jaxrl_tok.io.files import replace_atomically, sync_folder, why

PyTree = Any


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    state: PyTree
    host: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder, written by one process at a time.

    Args:
        folder: made if it is not there.
        keep_last: how many of the newest to keep; at least 2, for when the newest is damaged.
        keep_every: also keep every step that this number divides.
        fingerprint: the part of the config that gives the state its meaning. It is stored, and a restore
            refuses a checkpoint with another one. None stores and compares nothing.
        read_only: changes nothing in the folder, in which another process may be training.
        warn: called with one line about each checkpoint that cannot be used.

    Raises:
        ConfigError: `keep_last` is below 2.
        CheckpointError: the folder cannot be written, or another process is writing to it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        read_only: bool = False,
        warn: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ):
        if keep_last < 2:
            raise ConfigError(f"checkpoint keep_last = {keep_last}: expected at least 2")
        self.folder = Path(folder).absolute()
        self._keep_last, self._keep_every = keep_last, keep_every
        self._fingerprint = None if fingerprint is None else _as_json(fingerprint)
        self._warn = warn
        self._read_only = read_only
        self._best: int | None = None
        self._here: int | None = None  # the step last saved or restored by this process
        self._looked = False  # a restore has passed over every step that is newer than `_here`
        self._sealing: tuple[int, Future[None]] | None = None
        self._worker = ThreadPoolExecutor(1, "seal-checkpoint")
        self._stack = contextlib.ExitStack()
        if not read_only:
            self._open_for_writing()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def save(
        self, step: int, state: PyTree, host: Mapping[str, Any], *, best: bool = False, wait: bool = False
    ) -> None:
        """Writes `state` and `host` as `step` in the background; returns when the arrays may be donated.

        The step that this process is at, having just saved or restored it, is not written again. Steps at or
        after this one that a restore passed over, being damaged or half-written, are deleted first.

        Args:
            step: at least the one that this process is at.
            state: arrays (typed PRNG keys too), NumPy arrays and Python numbers in any pytree.
            host: what JSON can hold: data position, best metric, counters, resolved config.
            best: keep this step until a later one is saved as the best, whatever the retention says. A
                held-out evaluation therefore comes before the save of its step.
            wait: return only when the checkpoint is sealed.

        Raises:
            CheckpointError: this save, or the one before it in the background, failed; older ones remain.
        """
        assert not self._read_only and (self._here is None or step >= self._here), (step, self._here)
        self.wait()
        if step == self._here:
            assert not best or self._best == step, f"step {step} is saved already, and not as the best"
        else:
            self._make_way(step)
            named = leaves.name_leaves(state)
            best_step = step if best else self._best
            note = {
                "host": _as_json(host),
                "best": best_step,
                "fingerprint": self._fingerprint,
                "leaves": {name: leaves.describe(leaf) for name, leaf in named.items()},
            }
            arrays = {name: leaves.to_storable(leaf) for name, leaf in named.items() if not leaves.is_empty(leaf)}
            with self._reported(step, "save"):
                args = _orbax().args
                items = args.Composite(state=args.PyTreeSave(arrays), host=args.JsonSave(note))
                self._manager.save(step, args=items, force=True)
            self._here = step
            self._sealing = step, self._worker.submit(self._finish, step, best_step)
        if wait:
            self.wait()

    def restore(self, template: PyTree, *, step: int | None = None, partial: bool = False) -> Restored | None:
        """Returns the newest intact checkpoint, or None in a folder where no checkpoint was ever finished.

        Each newer one that is half-written or damaged is reported and passed over.

        Args:
            template: arrays or `jax.ShapeDtypeStruct`s in the structure to restore, with the shardings to
                restore onto; where a `ShapeDtypeStruct` has none, the first device.
            step: look at this one, and no other instead; the process stays at the step that it is at.
            partial: the template may leave out parts of the stored state: evaluation needs no optimizer.

        Raises:
            CheckpointError: none is intact, or it belongs to another config or another state.
        """
        self.wait()
        candidates = self._on_disk() if step is None else [step]
        intact = next((s for s in reversed(candidates) if self._is_intact(s)), None)
        if intact is None:
            if step is None and not self.steps():
                self._looked = True
                return None
            where = self.folder if step is None else self._path(step)
            raise CheckpointError(f"{where}: no intact checkpoint; delete it to start again")
        with self._reported(intact, "restore"):
            note = self._note(intact)
            self._check(intact, note, template, partial)
            state = self._read(intact, template)
        if step is None:
            self._here, self._best, self._looked = intact, note["best"], True
        return Restored(intact, state, note["host"])

    def steps(self) -> list[int]:
        """Returns the finished steps, oldest first; whether one is intact shows when it is restored."""
        return [step for step in self._on_disk() if manifest.is_sealed(self._path(step))]

    def latest(self) -> int | None:
        """Returns the newest finished step."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step last saved as the best, as the newest finished checkpoint tells it."""
        self.wait()
        newest = self.latest()
        if newest is None:
            return None
        with self._reported(newest, "restore"):
            return self._note(newest)["best"]

    def wait(self) -> None:
        """Blocks until the last save is sealed and what it replaces is deleted.

        Raises:
            CheckpointError: that save failed.
        """
        if self._sealing is not None:
            (step, sealing), self._sealing = self._sealing, None
            with self._reported(step, "save"):
                sealing.result()

    def close(self) -> None:
        """Waits for the last save and lets another process write."""
        try:
            self.wait()
        finally:
            self._worker.shutdown()
            if manager := self.__dict__.pop("_manager", None):
                manager.close()
            self._stack.close()

    def _open_for_writing(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A block, not a byte: on a full disk an empty file can still be made.
            probe = self.folder / ".probe"
            replace_atomically(probe, lambda file: file.write(bytes(4096)))
            probe.unlink()
            lock = self._stack.enter_context((self.folder / ".lock").open("ab"))
        except OSError as error:
            raise CheckpointError(f"{self.folder}: cannot write checkpoints here: {why(error)}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._stack.close()
            raise CheckpointError(f"{self.folder}: another process is writing to this run folder") from error
        except OSError:
            pass  # some network file systems have no locks; one writer at a time is then up to the user

    @functools.cached_property
    def _manager(self) -> Any:
        # A process that only looks must not clean up what the one that trains is just writing.
        writes = not self._read_only
        options = _orbax().CheckpointManagerOptions(
            save_root_metadata=False, create=writes, cleanup_tmp_directories=writes
        )
        return _orbax().CheckpointManager(self.folder, options=options)

    @contextlib.contextmanager
    def _reported(self, step: int, verb: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            # Orbax raises a background error once in each thread that waits: a new manager starts clean.
            self.__dict__.pop("_manager", None)
            self._here = None
            line = f"{self._path(step)}: cannot {verb} this checkpoint: {why(error)}"
            if (left := self.latest()) not in (None, step):
                line += f" (step {left} is finished)"
            raise CheckpointError(line) from error

    def _path(self, step: int) -> Path:
        return self.folder / str(step)

    def _on_disk(self) -> list[int]:
        found = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(path.name) for path in found if path.name.isdecimal() and path.is_dir())

    def _is_intact(self, step: int) -> bool:
        if not manifest.is_sealed(self._path(step)):
            self._warn(f"{self._path(step)}: checkpoint not used: it was never finished (no {manifest.NAME})")
            return False
        if damage := manifest.damage(self._path(step)):
            self._warn(f"{self._path(step)}: checkpoint not used: {damage}")
            return False
        return True

    def _make_way(self, step: int) -> None:
        ahead = [s for s in self._on_disk() if s >= step]
        if any(manifest.is_sealed(self._path(s)) for s in ahead) and not self._looked:
            earlier = f"holds step {ahead[-1]} of an earlier run"
            raise CheckpointError(f"{self.folder}: {earlier}; restore it, or give this run another folder")
        for s in ahead:
            self._delete(s)
        if ahead and "_manager" in self.__dict__:
            self._manager.reload()

    def _delete(self, step: int) -> None:
        manifest.break_seal(self._path(step))
        shutil.rmtree(self._path(step))

    def _finish(self, step: int, best_step: int | None) -> None:
        """Runs in the background: waits for Orbax's commit, seals it, then deletes what it replaces."""
        self._manager.wait_until_finished()
        sync_folder(self.folder)
        manifest.seal(self._path(step))
        self._best = best_step
        finished = self.steps()
        kept = {*finished[-self._keep_last :], best_step}
        if self._keep_every is not None:
            kept.update(s for s in finished if s % self._keep_every == 0)
        for s in self._on_disk():
            if s not in kept:
                self._delete(s)

    def _note(self, step: int) -> dict[str, Any]:
        args = _orbax().args
        return self._manager.restore(step, args=args.Composite(host=args.JsonRestore())).host

    def _check(self, step: int, note: dict[str, Any], template: PyTree, partial: bool) -> None:
        stored = note["fingerprint"]
        if self._fingerprint is not None and stored is not None and stored != self._fingerprint:
            differing = "; ".join(differences(stored, self._fingerprint))
            raise CheckpointError(
                f"{self._path(step)}: belongs to another config: {differing};"
                " undo the change, or give this run another folder"
            )
        wanted = {name: leaves.describe(leaf) for name, leaf in leaves.name_leaves(template).items()}
        if found := leaves.mismatches(note["leaves"], wanted, partial=partial):
            more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
            raise CheckpointError(f"{self._path(step)}: holds another state: {'; '.join(found[:3])}{more}")

    def _read(self, step: int, template: PyTree) -> PyTree:
        named = leaves.name_leaves(template)
        targets = {name: leaves.to_target(leaf) for name, leaf in named.items() if not leaves.is_empty(leaf)}
        how = _orbax().checkpoint_utils.construct_restore_args(targets)
        args = _orbax().args
        # Partial: what the template leaves out on purpose has been agreed with the caller in `_check`.
        items = args.Composite(state=args.PyTreeRestore(targets, restore_args=how, partial_restore=True))
        stored = self._manager.restore(step, args=items).state
        values = [
            leaves.empty_like(leaf) if leaves.is_empty(leaf) else leaves.from_stored(leaf, stored[name])
            for name, leaf in named.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(template), values)


def differences(stored: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns one phrase for each key whose value is not the same, with both values.

    Nested tables are compared key by key: `model.layers`. A key that one side lacks is `unset` there.
    """
    there, here = _flat(stored), _flat(now)
    return [
        f"{key} is {there.get(key, 'unset')} there and {here.get(key, 'unset')} here"
        for key in sorted(there.keys() | here.keys())
        if (key in there) != (key in here) or there[key] != here[key]
    ]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return flat


def _as_json(table: Mapping[str, Any]) -> dict[str, Any]:
    # A copy as it will be read back: the loop goes on changing its own while the save runs.
    return json.loads(json.dumps(dict(table)))


@functools.cache
def _orbax() -> Any:
    import orbax.checkpoint

    # Orbax logs the traceback of an error several times, and each write that fails after the first is reported
    # by asyncio or TensorStore; the user gets the error as CheckpointError.
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: ".orbax-checkpoint-tmp" not in record.getMessage())
    sys.unraisablehook = functools.partial(_except_late_writes, sys.unraisablehook)
    return orbax.checkpoint


def _except_late_writes(hook: Callable[[Any], None], unraisable: Any) -> None:
    """Calls `hook`, but not for a write that ends after Orbax gave up on a save and closed its event loop.

    TensorStore reports each of them from C++, so the traceback begins in asyncio.
    """
    trace = unraisable.exc_traceback
    if trace is None or trace.tb_frame.f_code.co_name != "call_soon_threadsafe":
        hook(unraisable)
