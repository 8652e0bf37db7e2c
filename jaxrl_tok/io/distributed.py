"""Several processes as one run: how they find each other, agree on something, and end together.

Each process is given the same command and drives its own devices; jax makes one mesh of all. What only the hosts know
(rewards, a signal, a mistake) goes through the service that `jax.distributed.initialize` starts in process 0. A process
by itself starts nothing and talks to nobody.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax

from jaxrl_tok import errors
from jaxrl_tok.compat import cluster, coordination
from jaxrl_tok.errors import ConfigError, JaxrlTokError, ProcessError

# Who the others are, where jax cannot find it out: read here and nowhere else.
COORDINATOR, PROCESSES, PROCESS = "JAXRL_TOK_COORDINATOR", "JAXRL_TOK_PROCESSES", "JAXRL_TOK_PROCESS"
JOIN_TIMEOUT = "JAXRL_TOK_JOIN_TIMEOUT"  # seconds; 300 unless set

BEAT = 1.0  # seconds between two signs of life, and between two looks for those of others
SILENCE = 30.0  # seconds without a sign of life, after which a process counts as lost
# jax's own limit, in seconds. It ends a process with a stack trace, so ours comes first: of a process that is lost, jax
# may have had the last sign of life half of this before.
HEARTBEAT_TIMEOUT = 100
# Seconds that a process waits for the others at one point: for the SHA-256 of a large checkpoint, for slow rewards.
# The loss of a process ends the wait long before.
PATIENCE = 3600
PARTING = 5.0  # seconds that process 0, which has the service, stays when it ends by an error
# How the messages of the runtime's errors begin.
STATUS = re.compile(r"(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED|DEADLINE_EXCEEDED|FAILED_PRECONDITION): ")
AGAIN = "the same command, given to all again, goes on from the newest checkpoint"


class Given(NamedTuple):
    """The processes of a run as the environment gives them."""

    coordinator: str  # host:port at which process 0 serves
    count: int
    index: int


def given(environment: Mapping[str, str]) -> Given | None:
    """Returns what our own variables say, None where they say nothing.

    Raises:
        ConfigError: one is missing or makes no sense.
    """
    names = (COORDINATOR, PROCESSES, PROCESS)
    there = [name for name in names if environment.get(name)]
    if not there:
        return None
    if missing := [name for name in names if name not in there]:
        raise ConfigError(f"{' and '.join(there)} set, but not {' and '.join(missing)}: expected all three or none")
    coordinator = environment[COORDINATOR]
    if not re.fullmatch(r".+:\d+", coordinator):
        raise ConfigError(f"{COORDINATOR} = {coordinator!r}: expected host:port")
    count, index = _number(environment, PROCESSES, 1), _number(environment, PROCESS, 0)
    if index >= count:
        raise ConfigError(f"{PROCESS} = {index}: expected less than {PROCESSES} = {count}")
    return Given(coordinator, count, index)


class Peers:
    """This process among those of its run; by itself, number 0 of 1."""

    def __init__(self, index: int = 0, count: int = 1, client: Any = None, herald: "Herald | None" = None):
        self.index, self.count = index, count
        self.told = False  # the others know of an error that ends this process
        self._client, self._herald = client, herald
        self._exchanges = 0
        self._agreed: JaxrlTokError | None = None  # an error that all processes raise
        self._leaving = threading.Event()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes what a run leaves once: logs, seals, lines at the terminal."""
        return self.index == 0

    def share(self, count: int) -> slice:
        """Returns which of `count` things are this process's: neighbours, in the order of the processes."""
        return slice(count * self.index // self.count, count * (self.index + 1) // self.count)

    def exchange(self, compute: Callable[[], Any]) -> list[Any]:
        """Returns what `compute` gives on each process, in their order: values of JSON.

        A mistake of the user's that it raises on one process is raised on all, so that they can go on together. All
        come here equally often, from their main threads.

        Raises:
            JaxrlTokError: that mistake.
            ProcessError: the others did not come within an hour.
        """
        if self.count == 1:
            return [compute()]
        own: JaxrlTokError | None = None
        try:
            said = {"value": compute()}
        except JaxrlTokError as error:
            own, said = error, {"error": type(error).__name__, "line": str(error)}
        answers = self._all(json.dumps(said))
        wrong = next((k for k, answer in enumerate(answers) if "error" in answer), None)
        if wrong is None:
            return [answer["value"] for answer in answers]
        kind = getattr(errors, answers[wrong]["error"])
        self._agreed = own or kind(f"process {wrong}: {answers[wrong]['line']}")
        assert self._agreed is not None
        raise self._agreed

    def _all(self, said: str) -> list[dict[str, Any]]:
        """Returns what each process says at this point."""
        folder, before = (f"jaxrl_tok/exchange/{number}/" for number in (self._exchanges, self._exchanges - 1))
        self._client.key_value_set(f"{folder}{self.index}", said)
        try:
            self._client.wait_at_barrier(folder, PATIENCE * 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            raise ProcessError(f"process {self.index} waited {PATIENCE} s for the others: {_short(error)}") from None
        found = {int(key.rsplit("/", 1)[1]): json.loads(value) for key, value in self._client.key_value_dir_get(folder)}
        # Whoever is here has read all of the exchange before.
        if self._exchanges:
            self._client.key_value_delete(f"{before}{self.index}")
        self._exchanges += 1
        return [found[k] for k in range(self.count)]

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """Tells the others of an error that ends this process, and so ends them.

        To be entered last of all that has to be closed: closing may wait for the others.
        """
        try:
            yield
        except BaseException as error:
            if self.count > 1 and not self.told and error is not self._agreed:
                self._tell(error)
            raise

    def _tell(self, error: BaseException) -> None:
        if _is_of_jax(error):
            # Most often because another process is lost. `watch` will know which, and end this one.
            time.sleep(SILENCE + 5 * BEAT)
        self.told = True
        expected = isinstance(error, JaxrlTokError)
        line = str(error) if expected else f"{type(error).__name__}: {_short(error)}"
        assert self._herald is not None
        self._herald.will_say(f"error: {line}")
        self._end_all(self.index, f"process {self.index}: {line}", error.exit_code if expected else 1)

    def _end_all(self, of: int | None, line: str, code: int) -> None:
        end = json.dumps({"of": of, "line": line, "code": code})
        self._client.key_value_set(f"jaxrl_tok/end/{of}", end, allow_overwrite=True)

    def watch(self) -> None:
        """Ends this process when another one has told why it ended, or is lost. Has a thread of its own.

        The main thread may be inside a collective, which nothing interrupts.
        """
        heard = {k: ("", time.monotonic()) for k in range(self.count)}  # the last sign of life, and when it was new
        beats = 0
        try:
            while not self._leaving.wait(BEAT):
                beats += 1
                self._client.key_value_set(f"jaxrl_tok/beat/{self.index}", str(beats), allow_overwrite=True)
                if self.first:
                    self._look_for_lost(heard)
                for _, told in self._client.key_value_dir_get("jaxrl_tok/end/"):
                    self._end_with(**json.loads(told))
        except jax.errors.JaxRuntimeError:
            # Process 0 is gone, and its service with it: jax ends this process, and the herald says so.
            return

    def _look_for_lost(self, heard: dict[int, tuple[str, float]]) -> None:
        now = time.monotonic()
        for key, beat in self._client.key_value_dir_get("jaxrl_tok/beat/"):
            k = int(key.rsplit("/", 1)[1])
            if heard[k][0] != beat:
                heard[k] = beat, now
        lost = [str(k) for k, (_, when) in heard.items() if now - when > SILENCE]
        if lost:
            which = f"process {lost[0]} is lost" if len(lost) == 1 else f"processes {', '.join(lost)} are lost"
            line = f"{which}, of {self.count}: no sign of life for {SILENCE:.0f} s; {AGAIN}"
            self._end_all(None, line, ProcessError.exit_code)

    def _end_with(self, of: int | None, line: str, code: int) -> None:
        if self.told or of == self.index:
            return  # the main thread is about to end this process
        assert self._herald is not None
        self._herald.dismiss()
        print(f"error: {line}", file=sys.stderr, flush=True)
        if self.first:
            time.sleep(PARTING)
        os._exit(code)

    def leave(self) -> None:
        """Stops watching."""
        self._leaving.set()


ALONE = Peers()


@contextlib.contextmanager
def connected(environment: Mapping[str, str] = os.environ) -> Iterator[Peers]:
    """Joins the other processes of this run, where there are any, and takes leave of them at the end.

    To be entered before the first use of a device, and after reward processes have started. The processes are those
    that our own variables name, or else those of the cluster that jax finds itself in: a TPU pod, SLURM, Open MPI, or
    Kubernetes with the package `kubernetes`.

    Raises:
        ConfigError: the variables make no sense, or the cluster cannot be asked.
    """
    own = given(environment)
    kind, count = _asked_cluster() if own is None else ("", own.count)
    if count == 1:
        yield ALONE
        return
    timeout = _number({JOIN_TIMEOUT: "300"} | dict(environment), JOIN_TIMEOUT, 1)
    where = f"the coordinator {own.coordinator}" if own else f"the coordinator that {kind} names"
    with Herald() as herald:
        herald.will_say(
            f"error: {f'process {own.index} of {count}' if own else f'one of {count} processes'} could not join the "
            f"others through {where} within {timeout} s; process 0 must be reachable there, and all must be started "
            "with the same count"
        )
        _join(own, timeout)
        client, index, count = coordination()
        other = f"process 0 with {where}" if index else "another"
        ended = f"process {index} of {count} was ended from outside, or because {other} is gone"
        herald.will_say(f"error: {ended}; {AGAIN}")
        peers = Peers(index, count, client, herald)
        watch = threading.Thread(target=peers.watch, name="watch-peers", daemon=True)
        watch.start()
        try:
            with peers.telling():
                yield peers
        finally:
            if not peers.told:
                # Process 0 has the service, so nobody goes before all are done; until then all keep watch.
                peers.exchange(lambda: None)
                peers.leave()
                watch.join()
                jax.distributed.shutdown()
            elif peers.first:
                time.sleep(PARTING)


def _join(own: Given | None, timeout: int) -> None:
    # The loop agrees on signals. jax's own way would catch them from here on, before there is a loop.
    jax.config.update("jax_enable_preemption_service", False)
    place: dict[str, Any] = {}
    if own is not None:
        place = {"coordinator_address": own.coordinator, "num_processes": own.count, "process_id": own.index}
        place["cluster_detection_method"] = "deactivate"
    jax.distributed.initialize(
        **place,
        initialization_timeout=timeout,
        heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT,
        shutdown_timeout_seconds=PATIENCE,
    )


def _asked_cluster() -> tuple[str, int]:
    try:
        return cluster()
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        hint = f"set {COORDINATOR}, {PROCESSES} and {PROCESS}"
        raise ConfigError(f"the cluster around this process cannot be asked ({_short(error)}); {hint}") from None


def _number(environment: Mapping[str, str], name: str, least: int) -> int:
    text = environment[name]
    if not text.isdecimal() or int(text) < least:
        raise ConfigError(f"{name} = {text!r}: expected a whole number of at least {least}")
    return int(text)


def _is_of_jax(error: BaseException | None) -> bool:
    """Whether an error is one of the runtime's, or was made of one: a save that fails is a `CheckpointError`."""
    while error is not None:
        # What an array was to hold when its computation broke off comes as a ValueError.
        if isinstance(error, jax.errors.JaxRuntimeError) or STATUS.match(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


class Herald:
    """A small process beside this one, which says the last line it was given if this one ends without dismissing it.

    jax ends a process by itself when process 0 is gone, with a stack trace that Python cannot keep from happening; and
    nobody can say anything once killed.
    """

    PROGRAM = "import sys; line = sys.stdin.read().splitlines()[-1]; line == '.' or print(line, file=sys.stderr)"

    def __enter__(self) -> "Herald":
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self.PROGRAM],
            stdin=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the trainer
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.dismiss()
        self._process.wait()

    def will_say(self, line: str) -> None:
        """Gives it another line to say."""
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join(line.split()) + "\n")
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """Lets it end without a word."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed:
            self.will_say(".")
            self._process.stdin.close()
