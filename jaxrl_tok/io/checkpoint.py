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
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jaxrl_tok.errors import CheckpointError, ConfigError
from jaxrl_tok.io import leaves, manifest
from jaxrl_tok.io.differences import differences
from jaxrl_tok.io.distributed import ALONE, Peers
from jaxrl_tok.io.files import replace_atomically, sync_folder, why

PyTree = Any


class Restored(NamedTuple):
    """What a checkpoint held."""

    step: int
    state: PyTree
    host: dict[str, Any]


class Checkpoints:
    """The checkpoints in one folder, written by one run at a time.

    With several processes all make the same calls, and each writes and reads its part of the arrays; what concerns
    the whole (the lock, the choice of what to restore, the seal, what is deleted) is up to the first of them.

    Args:
        folder: made if it is not there.
        keep_last: how many of the newest to keep; at least 2, for when the newest is damaged.
        keep_every: also keep every step that this number divides.
        fingerprint: the part of the config that gives the state its meaning. It is stored, and a restore
            refuses a checkpoint with another one. None stores and compares nothing.
        as_now: makes of a stored fingerprint, which may be an earlier version's, what is compared.
        read_only: changes nothing in the folder, in which another run may be training.
        peers: the processes of this run.
        warn: called with one line about each checkpoint that cannot be used.

    Raises:
        ConfigError: `keep_last` is below 2.
        CheckpointError: the folder cannot be written, another run is writing to it, or a process does not see it.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep_last: int = 2,
        keep_every: int | None = None,
        fingerprint: Mapping[str, Any] | None = None,
        as_now: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        read_only: bool = False,
        peers: Peers = ALONE,
        warn: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
    ):
        if keep_last < 2:
            raise ConfigError(f"checkpoint keep_last = {keep_last}: expected at least 2")
        self.folder = Path(folder).absolute()
        self._keep_last, self._keep_every = keep_last, keep_every
        self._fingerprint = None if fingerprint is None else _as_json(fingerprint)
        self._as_now = as_now
        self._warn = warn
        self._read_only = read_only
        self._peers = peers
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
            if self._peers.exchange(lambda: self._peers.first and self._make_way(step))[0]:
                self._reload()
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
        intact = self._peers.exchange(lambda: self._choose(step) if self._peers.first else None)[0]
        if intact is None:
            self._looked = True
            return None
        with self._reported(intact, "restore"):
            note = self._note(intact)
            self._check(intact, note, template, partial)
            state = self._read(intact, template)
        if step is None:
            self._here, self._best, self._looked = intact, note["best"], True
        return Restored(intact, state, note["host"])

    def _choose(self, step: int | None) -> int | None:
        """Returns the newest intact step, or the one asked for; None where none was ever finished."""
        candidates = self._on_disk() if step is None else [step]
        intact = next((s for s in reversed(candidates) if self._is_intact(s)), None)
        if intact is None and (step is not None or self.steps()):
            where = self.folder if step is None else self._path(step)
            raise CheckpointError(f"{where}: no intact checkpoint; delete it to start again")
        return intact

    def steps(self) -> list[int]:
        """Returns the finished steps, oldest first; whether one is intact shows when it is restored."""
        return [step for step in self._on_disk() if manifest.is_sealed(self._path(step))]

    def latest(self) -> int | None:
        """Returns the newest finished step."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """Returns the step last saved as the best, as the newest finished checkpoint tells it."""
        self.wait()
        newest = self._peers.exchange(self.latest)[0]
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
        # A name that no process has looked for before: network file systems remember what was not there.
        probe = self.folder / self._peers.exchange(lambda: f".probe-{secrets.token_hex(8)}")[0]
        try:
            self._peers.exchange(lambda: self._claim(probe) if self._peers.first else None)
            self._peers.exchange(lambda: self._check_shared(probe))
        finally:
            if self._peers.first:
                with contextlib.suppress(OSError):
                    probe.unlink()

    def _check_shared(self, probe: Path) -> None:
        if not probe.exists():
            raise CheckpointError(
                f"{self.folder}: process {self._peers.index} does not see what process 0 writes here; run.dir must be "
                "on a file system that all of them mount, at the same path"
            )

    def _claim(self, probe: Path) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # A block, not a byte: on a full disk an empty file can still be made.
            replace_atomically(probe, lambda file: file.write(bytes(4096)))
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

    def _make_way(self, step: int) -> bool:
        """Deletes what a restore passed over; returns whether there was anything."""
        ahead = [s for s in self._on_disk() if s >= step]
        if any(manifest.is_sealed(self._path(s)) for s in ahead) and not self._looked:
            earlier = f"holds step {ahead[-1]} of an earlier run"
            raise CheckpointError(f"{self.folder}: {earlier}; restore it, or give this run another folder")
        for s in ahead:
            self._delete(s)
        return bool(ahead)

    def _reload(self) -> None:
        if "_manager" in self.__dict__:
            self._manager.reload()

    def _delete(self, step: int) -> None:
        manifest.break_seal(self._path(step))
        shutil.rmtree(self._path(step))

    def _finish(self, step: int, best_step: int | None) -> None:
        """Runs in the background: waits for Orbax's commit, seals it, then deletes what it replaces."""
        self._manager.wait_until_finished()  # of all processes
        if self._peers.first:
            sync_folder(self.folder)
            manifest.seal(self._path(step))
            self._delete_replaced(best_step)
        self._best = best_step

    def _delete_replaced(self, best_step: int | None) -> None:
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
        if self._fingerprint is not None and note["fingerprint"] is not None:
            stored = _as_json(self._as_now(note["fingerprint"]))
            if stored != self._fingerprint:
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
