"""Where completions wait that are sampled in one thread and scored in another."""

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping

from jaxrl_tok.rewards.batch import Board


class Inbox:
    """Completions on their way from the thread that samples to the one that scores.

    `wake` is a file descriptor that can be read from when something came; `is_open` says whether more may still come,
    as the thread that scores has seen it.
    """

    def __init__(self) -> None:
        self.is_open = True
        self._lock, self._closed, self._dropped = threading.Lock(), False, False
        self._samples: list[tuple[int, str]] = []
        self.wake, self._ring = os.pipe()
        os.set_blocking(self.wake, False)

    def put(self, samples: Iterable[tuple[int, str]], *, last: bool = False, drop: bool = False) -> None:
        """Adds completions by the number of their sample; after the `last` ones, or to `drop` all, it is closed."""
        with self._lock:
            self._samples.extend(samples)
            self._closed, self._dropped = self._closed or last or drop, self._dropped or drop
        os.write(self._ring, b".")

    def empty_onto(self, board: Board, data: Mapping[str, list]) -> None:
        """Opens tasks for what came."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 1 << 16)
        with self._lock:
            came, self._samples, self.is_open = self._samples, [], not self._closed
            if self._dropped:
                raise Dropped
        for sample, text in came:
            data["completions"][sample] = text
        board.add([sample for sample, _ in came])

    def close(self) -> None:
        """Gives the pipe back, when no thread uses it any more."""
        os.close(self.wake)
        os.close(self._ring)


class Dropped(Exception):
    """Nobody wants the scores any more."""
