"""Completions to the reward processes, and their rewards back."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxrl_tok.io.data import Batch as Questions
from jaxrl_tok.rewards.batch import RewardBatch, among, joined, to_json
from jaxrl_tok.rewards.stream import Stream
from jaxrl_tok.rollouts.chunks import Progress
from jaxrl_tok.train.evaluate import completion_texts, repeat, texts_of
from jaxrl_tok.types import Rollouts

if TYPE_CHECKING:
    from jaxrl_tok.train.loop import Loop


def rewards_of(loop: "Loop", questions: Questions, rollouts: Rollouts) -> tuple[RewardBatch, list[str]]:
    """Returns the rewards of all completions that exist, and the texts of those that this process scored."""
    pool = loop.pool
    assert pool is not None
    mine = loop.peers.share(len(questions.prompts))
    exists = rollouts.mask.any(-1)
    own = jax.tree.map(lambda x: x[mine][exists[mine]], rollouts)
    texts = completion_texts(own, loop.data.tokenizer, loop.run.rollout.stop)
    counts = exists[mine].sum(1).tolist()

    def scored() -> RewardBatch:
        columns = {name: repeat(values[mine], counts) for name, values in questions.columns.items()}
        return pool.score(repeat(questions.prompts[mine], counts), texts, columns)

    return among(_of_all(loop, scored), exists.reshape(-1)), texts


def _of_all(loop: "Loop", scored: Callable[[], RewardBatch]) -> RewardBatch:
    """Joins what each process has scored, and says what went wrong."""
    rewards = joined(loop.peers.exchange(lambda: to_json(scored())))
    for line in rewards.warnings():
        loop.console.warn("timeouts", line)
    for line in rewards.errors:
        loop.console.warn(line.split(":")[0], line)
    return rewards


class Judging:
    """The rewards of a batch that is still being sampled: each completion is scored when it has ended.

    As with `rewards_of`, each process has those of its own questions scored.
    """

    def __init__(self, loop: "Loop", questions: Questions, group: int):
        pool, mine = loop.pool, loop.peers.share(len(questions.prompts))
        assert pool is not None
        self._loop, self._first = loop, mine.start * group
        self._waiting = np.ones((mine.stop - mine.start) * group, bool)
        self._stream: Stream | None = None

        def begin() -> None:
            columns = {name: repeat(values[mine], group) for name, values in questions.columns.items()}
            self._stream = Stream(pool, repeat(questions.prompts[mine], group), columns)

        loop.peers.exchange(begin)

    def see(self, progress: Progress) -> None:
        """Hands over what has ended since the last look. Host arrays."""
        assert self._stream is not None
        own = slice(self._first, self._first + len(self._waiting))
        finished, lengths = (x.reshape(-1)[own] for x in (progress.finished, progress.lengths))
        tokens = progress.tokens.reshape(-1, progress.tokens.shape[-1])[own]
        ended = np.flatnonzero(finished & self._waiting)
        self._waiting[ended] = False
        texts = texts_of(tokens[ended], lengths[ended], self._loop.data.tokenizer, self._loop.run.rollout.stop)
        self._stream.add(ended.tolist(), texts)

    def rewards(self) -> RewardBatch:
        """Waits for the rewards of all completions, which have been seen to end."""
        assert self._stream is not None and not self._waiting.any()
        return _of_all(self._loop, self._stream.result)

    def close(self) -> None:
        """Drops what is not scored yet."""
        if self._stream is not None:
            self._stream.close()
