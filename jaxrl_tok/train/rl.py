"""One RL step: roll out, score, reward, assemble, update."""

import contextlib
import dataclasses
import time
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxrl_tok.io.data import Batch as Questions
from jaxrl_tok.io.metrics import Completion
from jaxrl_tok.rewards.batch import RewardBatch
from jaxrl_tok.sharding.mesh import batch_shards
from jaxrl_tok.sharding.place import shard_batch, to_host
from jaxrl_tok.train import parts
from jaxrl_tok.train.build import Stage
from jaxrl_tok.train.drawn import Drawn, drawn, prompts_of
from jaxrl_tok.train.evaluate import completion_texts
from jaxrl_tok.train.judge import rewards_of
from jaxrl_tok.train.probes import probe_arrays
from jaxrl_tok.train.recipe import DISTANCE_ARRAYS, STATISTIC_ARRAYS
from jaxrl_tok.train.summary import reward_metrics, rollout_metrics
from jaxrl_tok.train.tries import pack
from jaxrl_tok.types import Prompts, Rollouts, Tries

if TYPE_CHECKING:
    from jaxrl_tok.train.loop import Loop


def rollout_step(loop: "Loop", stage: Stage, step: int) -> tuple[dict[str, Any], list[Completion]]:
    """Takes one step on sampled completions; returns its metrics and the completions as text."""
    clock = _Clock()
    found = drawn(loop, stage, step)
    questions, prompts, rollouts, host = found.questions, found.prompts, found.rollouts, found.host
    exists = host.mask.any(-1)
    clock.lap("time/rollout")
    with contextlib.closing(found.judging) if found.judging else contextlib.nullcontext():
        tries = _tries(loop, stage, questions, host)
        # The scoring passes run on the device while the rewards run in their processes.
        scored = _scores(loop, stage, prompts, rollouts, tries)
        rewards, texts = _rewards(loop, found)
    known = found.fields | scored
    if found.probes is not None:
        assert stage.recipe.rollout is not None
        made = probe_arrays(loop, stage.recipe.rollout.name, questions, host, to_host(found.probes))
        known |= shard_batch(made, loop.built.mesh)
    clock.lap("time/reward")
    batch = loop.assembled(stage, prompts, *_fields(loop, stage, prompts, rollouts, rewards, known, step))
    batch = dataclasses.replace(batch, tries=tries, left_out=loop.built.left_out)
    clock.lap("time/score")
    metrics = loop.update(stage, batch)
    clock.lap("time/update")
    loop.num_tokens += found.tokens + found.prompt_tokens
    loop.num_sampled_tokens += found.tokens
    grid = exists.shape
    metrics |= found.metrics | rollout_metrics(host.mask[exists], host.truncated[exists])
    parts = rewards.parts.reshape(*grid, -1)
    metrics |= reward_metrics(rewards.rewards.reshape(grid), rewards.valid.reshape(grid), parts, rewards.outcomes)
    metrics["frac_trainable"] = float(np.mean(to_host(batch.fields["valid"])[exists]))
    metrics |= {"num_tokens": loop.num_tokens, "num_sampled_tokens": loop.num_sampled_tokens}
    metrics |= clock.laps | {"time/step": clock.total(), "perf/tokens_per_second": found.tokens / clock.total()}
    advantages, trained = to_host((batch.fields["advantages"], batch.fields["mask"]))
    if not loop.peers.first:
        return metrics, []
    if loop.peers.count > 1 or texts is None:
        texts = completion_texts(jax.tree.map(lambda x: x[exists], host), loop.data.tokenizer, loop.run.rollout.stop)
    return metrics, _completions(questions, texts, rewards, host, advantages, trained)


def _rewards(loop: "Loop", found: Drawn) -> tuple[RewardBatch, list[str] | None]:
    """Returns the rewards, and the texts of completions where they are known."""
    if found.judging is not None:
        return found.judging.rewards(), None
    return rewards_of(loop, found.questions, found.host) if found.rewards is None else (found.rewards, None)


def _tries(loop: "Loop", stage: Stage, questions: Questions, rollouts: Rollouts) -> Tries | None:
    """Returns what is distinct in the completions, where that is what is scored."""
    if loop.run.train.share_prefix != "tree":
        return None
    mesh, parts = loop.built.mesh, stage.minibatches * stage.microbatches
    packed = pack(prompts_of(questions), rollouts, filtered=loop.built.filtered, parts=parts, shards=batch_shards(mesh))
    return shard_batch(packed, mesh)


def _scores(loop: "Loop", stage: Stage, prompts: Prompts, rollouts: Rollouts, tries: Tries | None) -> dict[str, Any]:
    """Runs the passes that the recipe reads, and no others."""
    passes = stage.recipe.passes(stage.updates)
    reads = stage.recipe.assemble_reads | stage.recipe.step_reads
    built, params = loop.built, loop.state.model_params
    reference = parts.reference_params(built.model, loop.state)
    scored = {}
    if passes["old"]:
        statistics = tuple(sorted(reads & STATISTIC_ARRAYS))
        old = built.score(params, prompts, rollouts, tries, built.filtered, statistics)
        scored |= {"old_logprobs": old.logprobs, "old_entropy": old.entropy} | old.statistics
        scored |= {"values": old.values} if old.values is not None else {}
    if passes["reference"]:
        scores = built.score_reference(reference, prompts, rollouts, tries, built.filtered)
        scored["ref_logprobs"] = scores.logprobs
    if passes["distances"]:
        kinds = tuple(sorted(reads & DISTANCE_ARRAYS))
        scored |= built.distances(params, reference, prompts, rollouts, tries, kinds)
    return scored


def _fields(
    loop: "Loop",
    stage: Stage,
    prompts: Prompts,
    rollouts: Rollouts,
    rewards: RewardBatch,
    known: dict[str, Any],
    step: int,
) -> tuple[dict[str, Any], Any, Any]:
    """Returns the arrays that methods read, by name, and how the completions were sampled.

    `known` are those of the rollouts' method and of the scoring passes.
    """
    grid = rollouts.mask.shape[:2]
    reads = stage.recipe.assemble_reads | stage.recipe.step_reads
    host = {
        "rewards": rewards.rewards.reshape(grid),
        "valid": rewards.valid.reshape(grid),
        "reward_parts": rewards.parts.reshape(*grid, -1),
    }
    fields = shard_batch({name: host[name] for name in sorted(stage.recipe.judged)}, loop.built.mesh)
    fields |= {"tokens": rollouts.tokens, "mask": rollouts.mask, "truncated": rollouts.truncated}
    fields |= {"finished": ~rollouts.truncated, "prompt_ids": prompts.ids}
    if "priority" in reads:
        fields["priority"] = loop.built.priority(prompts.ids, rollouts.mask, np.int32(step))
    fields |= {"sampler_logprobs": rollouts.sampler_logprobs} | known
    fields |= {} if rollouts.entropy is None else {"sampler_entropy": rollouts.entropy}
    fields |= {"progress": np.float32(step / max(stage.steps, 1)), "step": np.int32(step)}
    return fields, rollouts.temperature, rollouts.keep_thresholds if loop.built.filtered else None


def _completions(
    questions: Questions,
    texts: list[str],
    rewards: RewardBatch,
    rollouts: Rollouts,
    advantages: np.ndarray,
    trained: np.ndarray,
) -> list[Completion]:
    """The completions that exist, whose texts are given, with the mean advantage of their trained tokens."""
    group = rollouts.mask.shape[1]
    counts = np.maximum(trained.sum(-1), 1)
    means = (np.where(trained, advantages, 0).sum(-1) / counts).reshape(-1)
    truncated = rollouts.truncated.reshape(-1)
    names = list(rewards.outcomes)
    return [
        Completion(
            prompt=_text(questions.prompts[i // group]),
            completion=text,
            reward=float(rewards.rewards[i]) if rewards.valid[i] else None,
            parts={name: _score(rewards.parts[i, k]) for k, name in enumerate(names)},
            advantage=float(means[i]),
            truncated=bool(truncated[i]),
            outcome=rewards.sample_outcomes[i],
        )
        for i, text in zip(np.flatnonzero(rollouts.mask.any(-1)).tolist(), texts, strict=True)
    ]


def _text(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else "\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def _score(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


class _Clock:
    """Names the seconds since the last lap."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._began = self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now

    def total(self) -> float:
        return time.perf_counter() - self._began
