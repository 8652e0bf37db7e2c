"""How a step comes to its completions: all in one call, in chunks of decode steps, or in rounds that rewards decide."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool

from jaxrl_tok.config.schema import Run
from jaxrl_tok.io.data import Batch as Questions
from jaxrl_tok.io.data import replaced
from jaxrl_tok.rewards.batch import RewardBatch, overlaid
from jaxrl_tok.rollouts.rounds import Round
from jaxrl_tok.sharding.place import shard_batch, to_host
from jaxrl_tok.train.build import Stage
from jaxrl_tok.train.judge import Judging, rewards_of
from jaxrl_tok.train.parts import sampling, scale_of
from jaxrl_tok.train.programs import TRAIN, Chunks
from jaxrl_tok.types import Leaf, Prompts, Rollouts, Sampling

if TYPE_CHECKING:
    from jaxrl_tok.train.loop import Loop


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A batch of questions and what was sampled for them."""

    questions: Questions
    prompts: Prompts  # on the devices
    rollouts: Rollouts  # on the devices
    host: Rollouts
    tokens: int  # that were sampled
    prompt_tokens: int  # of their prompts, once for each completion
    fields: dict[str, Leaf] = dataclasses.field(default_factory=dict)  # and probes: as a method of rollouts gave them
    probes: Any = None
    rewards: RewardBatch | None = None  # where it took them to sample
    judging: Judging | None = None  # of completions that were handed over as they ended
    metrics: dict[str, Any] = dataclasses.field(default_factory=dict)


def drawn(loop: "Loop", stage: Stage, step: int) -> Drawn:
    """Samples a batch, independently or by the recipe's method."""
    if stage.recipe.in_rounds:
        return drawn_in_rounds(loop, stage, step)
    questions = loop.questions_of(stage)
    prompts = shard_batch(prompts_of(questions), loop.built.mesh)
    read, asked = shard_batch((read_of(questions, loop.run), sampling(loop.run, stage.prompts)), loop.built.mesh)
    keys: tuple[Any, ...] = (np.int32(TRAIN), np.int32(step))
    arguments = (loop.state.model_params, read, asked, *keys, *scale_of(stage.recipe, loop.state))
    if loop.built.chunks is not None:
        return drawn_in_chunks(loop, questions, prompts, loop.built.chunks, *arguments)
    sampled = (loop.built.method or loop.built.rollout)(*arguments)
    host: Rollouts = to_host(sampled.rollouts)
    return Drawn(
        questions,
        prompts,
        sampled.rollouts,
        host,
        int(to_host(sampled.tokens).sum()),
        _prompt_tokens(questions, host),
        fields=sampled.fields,
        probes=sampled.probes,
    )


def drawn_in_chunks(
    loop: "Loop",
    questions: Questions,
    prompts: Prompts,
    chunks: Chunks,
    params: Any,
    read: Prompts,
    asked: Sampling,
    *others: Any,
) -> Drawn:
    """Samples in calls of a few steps each; completions go to the rewards as they end.

    The next call is on its way to the devices before the host looks at what came of the last one, so they do not wait
    for it; the last call finds nothing left to do.
    """
    judging = Judging(loop, questions, asked.limit.shape[1])
    try:
        kept, state = chunks.first(params, read, asked, *others)
        state, ahead = chunks.chunk(read, kept, state)
        busy = True
        while busy:
            behind = ahead
            state, ahead = chunks.chunk(read, kept, state)
            progress = to_host(behind)
            judging.see(progress)
            busy = progress.busy.any()
        rollouts = chunks.result(kept, state)
        host: Rollouts = to_host(rollouts)
    except BaseException:
        judging.close()
        raise
    tokens, prompt_tokens = int(host.mask.sum()), _prompt_tokens(questions, host)
    return Drawn(questions, prompts, rollouts, host, tokens, prompt_tokens, judging=judging)


def drawn_in_rounds(loop: "Loop", stage: Stage, step: int) -> Drawn:
    """Samples, rewards, and samples again, for as long as the method asks.

    Each round is one call of the same program, whatever it samples. The keys are those of the step in all rounds.
    """
    batch = _Batch(loop, stage, step)
    done = 0
    ask = batch.asks(done)
    while ask.wanted.any():
        batch.take(ask)
        done += 1
        ask = batch.asks(done)
    if ask.warning:
        loop.console.warn("rounds", ask.warning)
    assert batch.questions is not None and batch.host is not None and batch.rewards is not None
    placed = shard_batch((prompts_of(batch.questions), batch.host), loop.built.mesh)
    return Drawn(
        batch.questions,
        placed[0],
        placed[1],
        batch.host,
        batch.tokens,
        batch.prompt_tokens,
        rewards=batch.rewards,
        metrics={
            "rollout/rounds": done,
            "rollout/prompts": batch.prompts,
            "rollout/completions": batch.completions,
            "rollout/reward": batch.total / max(batch.rewarded, 1),
        },
    )


def prompts_of(questions: Questions) -> Prompts:
    """Returns what the devices get of questions."""
    return Prompts(questions.tokens, questions.lengths, questions.ids)


def read_of(questions: Questions, run: Run) -> Prompts:
    """Returns the prompts as sampling reads them: without padding that none of them needs, cut in `rollout.buckets`.

    With several processes each has all of the questions, so all cut alike.
    """
    whole = prompts_of(questions)
    sizes = (-(-run.rollout.max_prompt // 2**i) for i in reversed(range(run.rollout.buckets)))
    size = next(size for size in sizes if size >= questions.lengths.max(initial=0))
    return dataclasses.replace(whole, tokens=whole.tokens[:, -size:])


def _prompt_tokens(questions: Questions, rollouts: Rollouts) -> int:
    return int((questions.lengths * rollouts.mask.any(-1).sum(1)).sum())


class _Batch:
    """What there is of a batch so far, and counts of all that was sampled for it."""

    def __init__(self, loop: "Loop", stage: Stage, step: int):
        self._loop, self._stage, self._step = loop, stage, step
        self._grid = (stage.prompts, stage.group)
        self.questions: Questions | None = None
        self.host: Rollouts | None = None
        self.rewards: RewardBatch | None = None
        self.tokens = self.prompt_tokens = self.prompts = self.completions = self.rewarded = 0
        self.total = 0.0

    def asks(self, done: int) -> Round:
        """Returns what the method wants after so many rounds."""
        rewards, valid = np.zeros(self._grid, np.float32), np.zeros(self._grid, bool)
        if self.rewards is not None:
            rewards, valid = self.rewards.rewards.reshape(self._grid), self.rewards.valid.reshape(self._grid)
        method = self._stage.recipe.rollout
        assert method is not None and method.next_round is not None
        return method.next_round(done, rewards, valid)

    def take(self, ask: Round) -> None:
        """Samples and rewards what is asked for, and lays it over what there is."""
        loop, count = self._loop, int(ask.fresh.sum())
        questions = self.questions
        if count:
            others = loop.questions_of(self._stage, count)
            questions = others if questions is None else replaced(questions, ask.fresh, others)
        assert questions is not None
        asked = sampling(loop.run, self._stage.prompts)
        asked = dataclasses.replace(asked, limit=np.where(ask.wanted, asked.limit, 0))
        placed = shard_batch((read_of(questions, loop.run), asked), loop.built.mesh)
        assert loop.built.method is not None
        sampled = loop.built.method(loop.state.model_params, *placed, np.int32(TRAIN), np.int32(self._step))
        host: Rollouts = to_host(sampled.rollouts)
        rewards, _ = rewards_of(loop, questions, host)
        self.tokens += int(host.mask.sum())
        self.prompt_tokens += _prompt_tokens(questions, host)
        self.prompts += count
        self.completions += int(ask.wanted.sum())
        self.rewarded += int(rewards.valid.sum())
        self.total += float(rewards.rewards[rewards.valid].sum(dtype=np.float64))
        if self.host is not None and self.rewards is not None:
            where = ask.wanted | ask.fresh[:, None]
            host = jax.tree.map(lambda new, old: np.where(_like(where, new), new, old), host, self.host)
            rewards = overlaid(self.rewards, rewards, where.reshape(-1))
        self.questions, self.host, self.rewards = questions, host, rewards


def _like(where: Bool[np.ndarray, "P G"], x: Leaf) -> Any:
    return where.reshape(*where.shape, *[1] * (x.ndim - 2))
