"""Completions to the reward processes, and their rewards back."""

from typing import TYPE_CHECKING, Any

import jax

from jaxrl_tok.io.data import Batch as Questions
from jaxrl_tok.rewards.batch import RewardBatch, among, joined, to_json
from jaxrl_tok.train.evaluate import completion_texts, repeat
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

    def scored() -> dict[str, Any]:
        columns = {name: repeat(values[mine], counts) for name, values in questions.columns.items()}
        return to_json(pool.score(repeat(questions.prompts[mine], counts), texts, columns))

    rewards = among(joined(loop.peers.exchange(scored)), exists.reshape(-1))
    for line in rewards.warnings():
        loop.console.warn("timeouts", line)
    for line in rewards.errors:
        loop.console.warn(line.split(":")[0], line)
    return rewards, texts
