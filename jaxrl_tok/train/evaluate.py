"""Accuracy on held-out questions, judged apart from the training reward."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxrl_tok.io.data import Batch
from jaxrl_tok.io.distributed import ALONE, Peers
from jaxrl_tok.io.tokenizer import Tokenizer
from jaxrl_tok.rewards.pool import RewardPool
from jaxrl_tok.rollouts.stop_strings import cut
from jaxrl_tok.sharding.place import shard_batch, to_host
from jaxrl_tok.tasks import EXTRACTORS
from jaxrl_tok.train.build import Build
from jaxrl_tok.train.eval_metrics import eval_metrics
from jaxrl_tok.train.programs import EVAL
from jaxrl_tok.types import Prompts, Rollouts, Sampling


def evaluate(
    built: Build, params: Any, questions: Batch, tokenizer: Tokenizer, judge: RewardPool, peers: Peers = ALONE
) -> dict[str, float]:
    """Returns greedy accuracy, avg@k, pass@k and maj@k on fixed questions.

    Each question gets one greedy completion and k samples at `eval.temperature`, unfiltered, from keys of their
    own that do not change from one evaluation to the next: what differs between two is the policy.
    A completion that was cut off, or that the judge could not score, is wrong. Each process judges its own questions;
    all return the same.
    """
    settings = built.run.eval
    asked = eval_sampling(len(questions.prompts), settings.samples, settings.temperature, built.run.rollout.max_tokens)
    prompts = Prompts(questions.tokens, questions.lengths, questions.ids)
    placed = shard_batch((prompts, asked), built.mesh)
    rollouts = to_host(built.evaluation(params, *placed, np.int32(EVAL), np.int32(0)).rollouts)
    group = settings.samples + 1
    texts = completion_texts(rollouts, tokenizer, built.run.rollout.stop)
    columns = {name: repeat(values, group) for name, values in questions.columns.items()}
    mine = peers.share(len(questions.prompts))
    own = slice(mine.start * group, mine.stop * group)

    def judged() -> list[bool]:
        part = {name: values[own] for name, values in columns.items()}
        scored = judge.score(repeat(questions.prompts[mine], group), texts[own], part)
        return (scored.valid & (scored.rewards == 1)).tolist()

    right = [flag for flags in peers.exchange(judged) for flag in flags]
    correct = np.array(right).reshape(-1, group) & ~rollouts.truncated
    verifiers = columns.get("verifier", [None] * len(texts))
    answers = [EXTRACTORS.get(name, str.strip)(text) for name, text in zip(verifiers, texts, strict=True)]
    grid = [answers[i + 1 : i + group] for i in range(0, len(answers), group)]
    return eval_metrics(correct[:, 0], correct[:, 1:], grid)


def eval_sampling(prompts: int, samples: int, temperature: float, limit: int) -> Sampling:
    """Returns the settings of evaluation: the first request of each prompt greedy, the others sampled."""
    shape = (prompts, samples + 1)
    temperatures = np.full(shape, temperature, np.float32)
    temperatures[:, 0] = 0
    return Sampling(
        limit=np.full(shape, limit, np.int32),
        temperature=temperatures,
        top_k=np.zeros(shape, np.int32),
        top_p=np.ones(shape, np.float32),
        min_p=np.zeros(shape, np.float32),
    )


def completion_texts(rollouts: Rollouts, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> list[str]:
    """Returns the text of each completion up to a stop string, in rows of groups, without end tokens. Host arrays."""
    tokens = rollouts.tokens.reshape(-1, rollouts.tokens.shape[-1])
    return texts_of(tokens, rollouts.mask.sum(-1).reshape(-1), tokenizer, stops)


def texts_of(
    tokens: Int[np.ndarray, "N T"], lengths: Int[np.ndarray, " N"], tokenizer: Tokenizer, stops: Sequence[str]
) -> list[str]:
    """Returns the texts of N completions, as `completion_texts`."""
    ends = set(tokenizer.eos_ids)
    rows = (row[:length].tolist() for row, length in zip(tokens, lengths, strict=True))
    return [cut(tokenizer.decode([token for token in row if token not in ends]), stops) for row in rows]


def repeat(values: Sequence[Any], times: int | Sequence[int]) -> list[Any]:
    """Returns each value `times` times in a row, or as often as its own number says: one a completion of its prompt."""
    counts = [times] * len(values) if isinstance(times, int) else times
    return [value for value, count in zip(values, counts, strict=True) for _ in range(count)]
