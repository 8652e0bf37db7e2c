"""The program of a reward worker: reads requests, calls reward functions, writes replies, a JSON line each.

Two processes. The first, the guard, runs no user code: it waits until the worker ends or nobody holds the
other end of its stdin (the pool closed it, or the pool's process is gone, however it died), then kills
the worker with everything that it started. The second, its fork, is the worker. Killing this way needs no
help from the worker, which may hang in C with every signal blocked.
"""

import contextlib
import ctypes
import faulthandler
import inspect
import json
import os
import select
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from jaxrl_tok.errors import RewardError
from jaxrl_tok.rewards import call as calls

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
POLL_MS = 500  # how late a guard may notice that its worker ended; its pool sees that at once


def main() -> None:
    """Becomes a worker; returns when the pool asks for no more."""
    requests, replies = os.dup(0), os.dup(1)  # not inherited by what the user's code executes
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)  # the user's prints are for the terminal, not for the protocol
    guard(requests, replies)
    faulthandler.enable()
    with os.fdopen(requests) as lines, os.fdopen(replies, "w") as out:
        serve(lines, out)


def guard(requests: int, replies: int) -> None:
    """Forks. Returns in the worker; the caller's process stays as its guard and never returns."""
    parent = os.getppid()
    _prctl(PR_SET_CHILD_SUBREAPER, 1)  # what the worker leaves behind becomes the guard's child
    child = os.fork()
    if child == 0:
        os.setsid()
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should someone kill the guard
        return
    os.close(replies)  # so that the pool reads an end of file as soon as the worker is gone
    hung_up = select.poll()
    hung_up.register(requests, 0)
    status = None
    while status is None and os.getppid() == parent and not hung_up.poll(POLL_MS):
        ended, code = os.waitpid(child, os.WNOHANG)
        status = code if ended else None
    os._exit(_end(child, status))


def _end(child: int, status: int | None) -> int:
    """Kills the worker's process group and all orphans of it; returns the worker's exit status."""
    for kill in (os.killpg,) if status is not None else (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(child, signal.SIGKILL)
    if status is None:
        _, status = os.waitpid(child, 0)
    for orphan in _children():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(orphan, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(orphan, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code  # as a shell reports a signal


def _children() -> Iterator[int]:
    """Yields children until none is left: killing one hands its own children to the guard."""
    listing = Path("/proc/thread-self/children")
    while listing.exists() and (pids := listing.read_text().split()):
        yield int(pids[0])


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def serve(lines: TextIO, out: TextIO) -> None:
    """Answers the greeting, which names the reward functions, then each request, until the end of file."""

    def reply(**message: Any) -> None:
        print(json.dumps(message), file=out, flush=True)

    greeting = json.loads(lines.readline())
    sys.path[:0] = greeting["paths"]
    try:
        for function in greeting["warm_up"]:
            calls.warm_up(function)
        found = [calls.load(**function) for function in greeting["functions"]]
    except RewardError as error:
        return reply(kind="refused", message=str(error))
    reply(kind="ready", takes=[(c.arguments, c.required, c.takes_all) for c in found])
    runner = _Runner()
    for line in lines:
        request = json.loads(line)
        reply(**answer(found[request.pop("function")], runner, **request))


def answer(call: calls.Call, runner: "_Runner", prompts: list, completions: list, columns: dict) -> dict:
    """Scores one chunk; whatever the user's code raises becomes part of the answer."""
    try:
        values = calls.invoke(call, prompts, completions, columns)
        if inspect.isawaitable(values):
            values = runner.run(values)
    except BaseException as error:  # SystemExit and CancelledError too: a sample's failure, not the worker's
        return {"kind": "raised", "message": calls.describe(error, call.function)}
    try:
        scores, wrong = calls.checked(values, len(completions))
    except ValueError as error:
        return {"kind": "broken", "message": str(error)}
    return {"kind": "values", "scores": scores, "wrong": wrong}


class _Runner:
    """One event loop for a worker's life, so that an async reward can keep its connections."""

    def __init__(self) -> None:
        self._runner = None

    def run(self, awaitable: Any) -> Any:
        import asyncio  # 50 ms that most workers do not need

        async def wait() -> Any:
            return await awaitable

        self._runner = self._runner or asyncio.Runner()
        return self._runner.run(wait())
