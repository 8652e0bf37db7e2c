"""Rewards of completions that come one after the other, while others are still being sampled."""

import threading
from collections.abc import Mapping, Sequence

from jaxrl_tok.rewards.batch import RewardBatch
from jaxrl_tok.rewards.inbox import Dropped, Inbox
from jaxrl_tok.rewards.pool import Column, RewardPool


class Stream:
    """Does what `RewardPool.score` does with completions that come a few at a time.

    A thread scores them. Nothing here waits for a reward function but `result`, and until then the pool is this one's.

    Args:
        pool: scores them.
        prompts: of all of the completions that are still to come.
        columns: as for `RewardPool.score`.

    Raises:
        RewardError: as `RewardPool.score`, for the columns; what functions do comes with the result.
    """

    def __init__(self, pool: RewardPool, prompts: Sequence, columns: Mapping[str, Column] | None = None) -> None:
        self._pool, self._prompts = pool, prompts
        self._board, self._data = pool.opened(prompts, {} if columns is None else columns)
        self._inbox, self._closed = Inbox(), False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, samples: Sequence[int], completions: Sequence[str]) -> None:
        """Hands completions over, each once, by the number of its prompt."""
        self._inbox.put(zip(samples, completions, strict=True))

    def result(self) -> RewardBatch:
        """Returns what `score` would, once all completions have been added.

        Raises:
            RewardError: as `score`.
        """
        self._inbox.put((), last=True)
        self._thread.join()
        self.close()
        if self._error is not None:
            raise self._error
        return self._pool.collected(self._board, self._prompts)

    def close(self) -> None:
        """Ends the scoring of what nobody wants any more, within the timeout of a sample."""
        if self._closed:
            return
        if self._thread.is_alive():
            self._inbox.put((), drop=True)
            self._thread.join()
        self._inbox.close()
        self._closed = True

    def _run(self) -> None:
        try:
            self._pool.work(self._board, self._data, self._inbox)
        except Dropped:
            pass
        except BaseException as error:  # for the thread that asks for the result
            self._error = error
