"""The one training loop, and the only place of its side effects: data, rewards, checkpoints, logs, signals."""

import contextlib
import dataclasses
import functools
import io
import json
import signal
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxrl_tok.config.load import dump_toml
from jaxrl_tok.errors import DataError, NumericsError, RewardError
from jaxrl_tok.io.checkpoint import Checkpoints
from jaxrl_tok.io.console import RunConsole
from jaxrl_tok.io.data import Batch as Questions
from jaxrl_tok.io.data import Batches, Data, join
from jaxrl_tok.io.distributed import ALONE, Peers
from jaxrl_tok.io.files import replace_atomically, reported, why
from jaxrl_tok.io.metrics import Completion, MetricsLog
from jaxrl_tok.io.trackers import Trackers
from jaxrl_tok.models.params import digest
from jaxrl_tok.rewards.pool import RewardPool
from jaxrl_tok.sharding.place import shard_batch, to_host
from jaxrl_tok.train import rl
from jaxrl_tok.train.alerts import ADAPTER_TOLERANCE, alerts
from jaxrl_tok.train.answers import answer_arrays
from jaxrl_tok.train.build import Build, Stage, fresh_stage, init_state, stored, with_base
from jaxrl_tok.train.evaluate import evaluate
from jaxrl_tok.types import Batch, Prompts, TrainState

FINISHED, STOPPED = 0, 143  # exit codes; 143 = 128 + SIGTERM, so that a launcher starts the run again


class Loop:
    """A run in progress. `index` counts finished steps: the warm-up's first, then the main part's.

    With several processes each has a loop, and all do the same on the same host arrays: they draw the same questions
    and get all completions, metrics and rewards. A process scores its share of the completions; the first one writes.
    """

    def __init__(
        self,
        built: Build,
        data: Data,
        checkpoints: Checkpoints,
        pool: RewardPool | None,
        judge: RewardPool | None,
        peers: Peers = ALONE,
    ):
        self.built, self.run, self.data = built, built.run, data
        self.checkpoints, self.pool, self.judge, self.peers = checkpoints, pool, judge, peers
        self.folder = checkpoints.folder.parent
        self._opened = contextlib.ExitStack()
        self.console = RunConsole(None if peers.first else io.StringIO())
        self.questions = data.collate(data.heldout(self.run.eval.prompts)) if self.run.eval.prompts else None
        self.state: TrainState = None  # type: ignore[assignment]  # set by `start`
        self.index = 0
        self.best = -1.0
        self.num_tokens = self.num_sampled_tokens = 0
        self.steps_without_end = 0
        self.begun = False  # the main part: its optimizer is made and the start evaluated
        self.signalled = False  # this process was told to stop
        self.stop = False  # some process was: all stop at the same step
        self.base: str | None = None  # digest of what checkpoints leave out; set by `start`
        self.saving = 0.0  # seconds that the loop waited for saves, not yet reported

    @property
    def warm(self) -> int:
        """Steps of the warm-up."""
        return self.built.warmup.steps

    @property
    def finished(self) -> bool:
        """Whether the main part has taken all its steps, or sampled all its tokens."""
        most = self.run.run.max_sampled_tokens
        return self.index >= self.warm + self.built.main.steps or 0 < most <= self.num_sampled_tokens

    def start(self) -> None:
        """Restores the newest checkpoint, or initialises; cuts the logs back to it; opens everything."""
        restored = self.checkpoints.restore(stored(self.built, self.built.main.template))
        host: dict[str, Any] = {} if restored is None else restored.host
        if restored is None:
            self.state = init_state(self.built)
            self.base = digest(self.state.frozen) if self.built.reloads else None
        else:
            self.state = with_base(self.built, restored.state, self.checkpoints.folder, host["base"])
            self.index, self.base = restored.step, host["base"]
            self.begun = self.index >= self.warm
            self.best, self.num_tokens = host["best"], host["num_tokens"]
            self.num_sampled_tokens = host["num_sampled_tokens"]
            self.steps_without_end = host["steps_without_end"]
            self.console.print(f"resumed at {self._name(self.index)} from {self.checkpoints.folder}")
        enter = self._opened.enter_context
        stages = (self.built.warmup, self.built.main)
        # Before anything is written: data that has changed is refused here.
        self.batches = {stage.name: enter(contextlib.closing(self._batches(stage, host))) for stage in stages}
        if self.peers.first:
            self._open_logs(resumed=restored is not None)

    def _open_logs(self, *, resumed: bool) -> None:
        enter = self._opened.enter_context
        text = dump_toml(self.run).encode()
        with reported(self.folder / "config.toml"):
            replace_atomically(self.folder / "config.toml", lambda file: file.write(text))
        self.log, self.warm_log = enter(MetricsLog(self.folder)), enter(MetricsLog(self.folder / "warmup"))
        self.log.cut(self.index - self.warm if self.index >= self.warm and resumed else None)
        self.warm_log.cut(min(self.index, self.warm))
        trackers = Trackers(
            self.run.run.trackers,
            self.folder,
            resumed_at=max(self.index - self.warm, 0) if resumed else None,
            config=self.run.model_dump(),
            warn=lambda line: self.console.warn("tracker", line),
        )
        self.trackers = enter(contextlib.closing(trackers))

    def steps(self) -> int:
        """Runs to the end, or to a signal; returns the exit code."""
        with _stop_on_signal(self):
            if self.index < self.warm:
                self._stage(self.built.warmup, 0)
            # Even when told to stop: a checkpoint at this index is one of the main part.
            if self.index == self.warm and not self.begun:
                self._begin_main()
            if not self.stop:
                self._stage(self.built.main, self.warm)
        if self.stop:
            self._save()
            self.checkpoints.wait()
            self.console.print(f"stopped by a signal at {self._name(self.index)}; the same command goes on from there")
            return STOPPED
        self.checkpoints.wait()
        self.console.print(f"finished: {self.folder}")
        return FINISHED

    def close(self) -> None:
        """Closes what `start` opened."""
        self.console.close()
        self._opened.close()

    def _begin_main(self) -> None:
        """After the warm-up: a new optimizer, the reference, the evaluation of the start."""
        if self.warm:
            self.state = fresh_stage(self.built.main, self.state.params, self.state.frozen)
        self.begun = True
        self.console.stage("train", self.built.main.steps)
        self._record(0, self._evaluated(force=True), [], main=True)
        self._save()

    def _stage(self, stage: Stage, start: int) -> None:
        main = stage is self.built.main
        self.console.stage(stage.name, stage.steps, done=self.index - start)
        while not self._is_stopped() and not (self.finished if main else self.index >= self.warm):
            step = self.index - start + 1
            position = self._position()
            try:
                metrics, completions = self._step(stage, step)
            except (DataError, RewardError):
                # Both come before the update, so the steps behind are whole and can be kept.
                if self.index > start:
                    self._save(position)
                    self.checkpoints.wait()
                    self.console.print(f"saved at {self._name(self.index)}; the same command goes on from there")
                raise
            self.index += 1
            if main:
                self._check_adapters(metrics)
                metrics |= self._evaluated(force=self.finished)
                self._warn(metrics)
            self._record(step, metrics, completions, main)
            if self._is_due(step, main):
                self._save()

    def _is_stopped(self) -> bool:
        self.stop = any(self.peers.exchange(lambda: self.signalled))
        return self.stop

    def questions_of(self, stage: Stage, batches: int = 1) -> Questions:
        """Returns the next batch of a stage, or so many as one, on every process the same."""
        drawn: list[Questions] = []
        self.peers.exchange(lambda: drawn.extend(next(self.batches[stage.name]) for _ in range(batches)))
        return drawn[0] if batches == 1 else join(drawn)

    def _step(self, stage: Stage, step: int) -> tuple[dict[str, Any], list[Completion]]:
        if stage.recipe.source != "rollout":
            return self._answers_step(stage), []
        assert self.pool is not None  # the caller makes one wherever a recipe rolls out
        return rl.rollout_step(self, stage, step)

    def _answers_step(self, stage: Stage) -> dict[str, Any]:
        """One step on worked answers: no rollouts, no rewards."""
        began = time.perf_counter()
        questions = self.questions_of(stage)
        tokens, mask = answer_arrays(questions, self.data.tokenizer, self.run.rollout.max_tokens)
        prompts = Prompts(questions.tokens, questions.lengths, questions.ids)
        fields = {"tokens": tokens, "mask": mask, "valid": np.ones(mask.shape[:2], bool)}
        temperature = np.ones(mask.shape[:2], np.float32)
        placed = shard_batch((prompts, fields, temperature), self.built.mesh)
        metrics = self.update(stage, self.assembled(stage, *placed, None))
        self.num_tokens += int(mask.sum() + questions.lengths.sum())
        spent = time.perf_counter() - began
        return metrics | {
            "num_tokens": self.num_tokens,
            "time/step": spent,
            "perf/tokens_per_second": float(mask.sum()) / spent,
        }

    def assembled(self, stage: Stage, *arrays: Any) -> Batch:
        """Runs the assemble stage; stateful methods remember what they saw."""
        batch, states = stage.assemble(self.state.method_state, *arrays)
        self.state = dataclasses.replace(self.state, method_state=states)
        return batch

    def update(self, stage: Stage, batch: Batch) -> dict[str, Any]:
        """All updates on one batch; returns the last one's metrics, but the first one's mismatch to the sampler.

        Raises:
          NumericsError: a loss or gradient is not finite. The state is then that of the update before.
        """
        first: dict[str, Any] = {}
        metrics: dict[str, Any] = {}
        for update in range(stage.updates):
            part = update % stage.minibatches
            self.state, metrics = stage.update(self.state, batch, np.int32(part))
            metrics = {name: value.item() for name, value in to_host(metrics).items()}
            first = first or metrics
            self._check_finite(metrics, batch)
        return metrics | {name: value for name, value in first.items() if name.startswith("sampling/")}

    def _check_finite(self, metrics: dict[str, Any], batch: Batch) -> None:
        wrong = [name for name in metrics if name.startswith("loss/") and not np.isfinite(metrics[name])]
        if not wrong and np.isfinite(metrics["loss"]) and np.isfinite(metrics["grad_norm"]):
            return
        name = self._name(self.index + 1)
        path = self.folder / f"nonfinite_{name.replace(' ', '_')}.npz"
        leaves = {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(to_host(batch))}
        try:
            if self.peers.first:
                replace_atomically(path, lambda file: np.savez(file, **leaves))
            kept = f"its batch is in {path}"
        except OSError as error:
            kept = f"its batch could not be written to {path} ({why(error)})"
        term = ", ".join(wrong) if wrong else "the gradient"
        self.checkpoints.wait()
        latest = self.checkpoints.latest()
        left = "there is no checkpoint" if latest is None else f"the last checkpoint is that of {self._name(latest)}"
        line = f"{name}: {term} is not finite; {kept}; the update was not applied, and {left}"
        self.peers.exchange(functools.partial(_raise, NumericsError(line)))

    def _evaluated(self, *, force: bool) -> dict[str, Any]:
        """Evaluates where it is due."""
        step = self.index - self.warm
        every = self.run.eval.every
        if self.questions is None or not (force or (every and step % every == 0)):
            return {}
        assert self.judge is not None  # the caller makes one wherever there are questions
        began = time.perf_counter()
        metrics = evaluate(
            self.built, self.state.model_params, self.questions, self.data.tokenizer, self.judge, self.peers
        )
        return metrics | {"time/eval": time.perf_counter() - began}

    def _record(self, step: int, metrics: dict[str, Any], completions: list[Completion], main: bool) -> None:
        metrics["time/checkpoint"], self.saving = self.saving, 0.0
        if self.peers.first:
            self._write(step, metrics, completions, main)
        score = metrics.get(f"eval/avg@{self.run.eval.samples}", -1.0)
        if score > self.best:
            self.best = score
            self._save(best=True)

    def _write(self, step: int, metrics: dict[str, Any], completions: list[Completion], main: bool) -> None:
        log = self.log if main else self.warm_log
        log.write_completions(step, completions)
        log.write(step, metrics)
        if main:
            self.trackers.log(step, metrics)
        self.console.step(step, metrics)
        every = self.run.run.show_completions_every
        if completions and every and step % every == 0:
            self.console.table(step, completions[:: max(1, len(completions) // 4)][:4])

    def _check_adapters(self, metrics: dict[str, Any]) -> None:
        """Refuses to go on where the adapters, once updated, do not reach the rollouts.

        Looks at each step: the first updates at a small learning rate change less than rounding does.

        Raises:
          NumericsError: sampler and trainer do not agree on the tokens of rollouts that follow an update.
        """
        away = metrics.get("sampling/sampling_logp_difference/mean", 0.0)
        if self.run.lora.rank and self.index > 1 and away > ADAPTER_TOLERANCE:
            raise NumericsError(
                f"{self._name(self.index)}: after updates of the adapters, sampler and trainer are {away:.3g} nats "
                "apart on the mean token: the rollouts come from other weights than those that are trained"
            )

    def _warn(self, metrics: dict[str, Any]) -> None:
        ended = metrics.get("completions/clipped_ratio", 0.0) < 1
        self.steps_without_end = 0 if ended else self.steps_without_end + 1
        found = alerts(metrics, dtype=self.built.dtype, steps_without_end=self.steps_without_end)
        for kind, line in found.items():
            self.console.warn(kind, line)

    def _is_due(self, step: int, main: bool) -> bool:
        if not main and self.index == self.warm:
            return False  # saved when the main part has begun
        return step % self.run.run.checkpoint_every == 0 or (main and self.finished)

    def _position(self) -> dict[str, Any]:
        """Returns where the data stands: the batch that comes next."""
        return {name: batches.state() for name, batches in self.batches.items()}

    def _save(self, position: dict[str, Any] | None = None, *, best: bool = False) -> None:
        """Saves in the background; with a `position`, as of before a step that failed."""
        began = time.perf_counter()
        host = {
            "best": self.best,
            "num_tokens": self.num_tokens,
            "num_sampled_tokens": self.num_sampled_tokens,
            "steps_without_end": self.steps_without_end,
            "base": self.base,
            "data": position or self._position(),
            "config": json.loads(self.run.model_dump_json()),
        }
        self.checkpoints.save(self.index, stored(self.built, self.state), host, best=best)
        self.saving += time.perf_counter() - began

    def _batches(self, stage: Stage, host: dict[str, Any]) -> Batches:
        # The warm-up and the main part draw in orders of their own.
        seed = self.run.run.seed if stage is self.built.main else self.run.run.seed + 2**32
        items = sum(s.prompts * s.steps for s in (self.built.warmup, self.built.main))
        # Rounds take as many prompts as the rewards say: one by one, so that the position is behind the last one used.
        size, ahead = (1, 2 * stage.prompts) if stage.recipe.in_rounds else (stage.prompts, 2)
        how: dict[str, Any] = {"seed": seed, "shuffle": self.run.data.shuffle, "items": items, "prefetch": ahead}
        batches = self.data.batches(size, **how)
        if "data" in host:
            batches.restore(host["data"][stage.name])
        return batches

    def _name(self, index: int) -> str:
        return f"step {index - self.warm}" if index >= self.warm else f"warm-up step {index}"


def _raise(error: Exception) -> None:
    raise error


@contextlib.contextmanager
def _stop_on_signal(loop: Loop) -> Iterator[None]:
    """Lets SIGTERM and SIGINT end the loop after the step in progress; a second one ends it at once."""

    def handle(number: int, frame: Any) -> None:
        loop.signalled = True
        for name in before:
            signal.signal(name, before[name])

    before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
    for name in before:
        signal.signal(name, handle)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
