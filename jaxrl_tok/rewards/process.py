"""A worker process as its pool sees it: a JSON line out, a JSON line in, and a deadline."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

PROGRAM = "import sys; sys.path[:] = sys.argv[1:]; from jaxrl_tok.rewards.worker import main; main()"
PATIENCE = 5.0  # seconds for the guard of a worker to kill and reap it


class Worker:
    """Starts without waiting; answers the greeting with `ready` or `refused`, then one request at a time."""

    def __init__(self, greeting: dict, start_timeout: float) -> None:
        self._greeting, self._start_timeout = greeting, start_timeout
        self.task: Any = None  # what the pool gave it to do
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            # An accelerator belongs to the trainer; a fixed hash seed makes sets iterate alike in every run.
            env={"PYTHONHASHSEED": "0", **os.environ, "JAX_PLATFORMS": "cpu"},
            start_new_session=True,  # Ctrl-C is for the trainer
        )
        assert self._process.stdin and self._process.stdout
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self.ready, self._inbox = False, b""
        self.send(self._greeting, self._start_timeout)

    @property
    def waiting(self) -> bool:
        """Whether an answer is due."""
        return self.deadline < float("inf")

    def send(self, message: dict, timeout: float) -> None:
        """Queues a message, to be answered within `timeout` seconds; `wait` writes it."""
        self._outbox = json.dumps(message).encode() + b"\n"
        self.deadline = time.monotonic() + timeout
        self._write()

    def register(self, selector: selectors.BaseSelector) -> None:
        """Asks the selector to wake when there is something to read, or room for what is unsent."""
        selector.register(self._out, selectors.EVENT_READ)
        if self._outbox:
            selector.register(self._in, selectors.EVENT_WRITE)

    def poll(self) -> dict | None:
        """Moves bytes; returns the answer if it is complete, late or will never come.

        A worker that is late or dead is replaced before this returns, unless it never got ready.
        """
        self._write()
        data = self._out.read(1 << 20)
        if data == b"":
            return self._lost("died", self.kill())
        self._inbox += data or b""  # None: nothing there yet
        if self._inbox.endswith(b"\n"):
            line, self._inbox, self.deadline = self._inbox, b"", float("inf")
            try:
                answer = json.loads(line)
                self.ready = self.ready or answer["kind"] == "ready"
                return answer
            except (ValueError, TypeError, KeyError):
                return self._lost("died", f"wrote into its reply pipe, so it was killed: {self.kill()}")
        if time.monotonic() >= self.deadline:
            self.kill()
            return self._lost("timed_out", "")
        return None

    def kill(self) -> str:
        """Ends the worker and what it started; returns how it ended."""
        self.deadline = float("inf")
        self._in.close()  # its guard sees this and kills
        try:
            code = self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._out.close()
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else ""
        return f"exited with status {code}" + (f" ({name})" if name else "")

    def restart(self) -> None:
        """Kills the worker and starts another in its place."""
        self.kill()
        self.task = None
        self._start()

    def _lost(self, kind: str, message: str) -> dict:
        if self.ready:
            self._start()
        return {"kind": kind, "message": message}

    def _write(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # dead, as reading will tell
            sent = self._in.write(self._outbox) if self._outbox else 0
            self._outbox = self._outbox[sent or 0 :]  # None: the pipe is full


def wait(workers: Sequence[Worker], wake: int | None = None) -> list[tuple[Worker, dict]]:
    """Blocks until some of the workers have answered, died or run out of time.

    Or until there is something to read from `wake`, a file descriptor: then there may be no answer.
    """
    while True:
        waiting = [worker for worker in workers if worker.waiting]
        assert waiting or wake is not None, "nobody has anything to answer"
        with selectors.DefaultSelector() as selector:
            for worker in waiting:
                worker.register(selector)
            if wake is not None:
                selector.register(wake, selectors.EVENT_READ)
            latest = min((worker.deadline - time.monotonic() for worker in waiting), default=None)
            ready = selector.select(None if latest is None else max(0.0, latest))
        answers = [(worker, answer) for worker in waiting if (answer := worker.poll()) is not None]
        if answers or any(key.fd == wake for key, _ in ready):
            return answers
