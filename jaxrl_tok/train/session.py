"""From a run file to a run: opens what a command needs, in an order that lets reward processes start first."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxrl_tok.config.load import load_run
from jaxrl_tok.config.schema import OwnModelConfig, Run
from jaxrl_tok.errors import CheckpointError, ConfigError, DataError
from jaxrl_tok.rewards.pool import RewardPool, RewardSpec


def train(path: Path, sets: Sequence[str]) -> int:
    """Trains until the run is finished or told to stop; returns the exit code."""
    run = load_run(path, sets)
    with contextlib.ExitStack() as stack:
        pool, judge = _training_pool(stack, run, path), _judge(stack, run, path)
        peers = _connect(stack)
        from jaxrl_tok.config.derived import as_now, fingerprint
        from jaxrl_tok.io.checkpoint import Checkpoints
        from jaxrl_tok.train.loop import Loop

        checkpoints = stack.enter_context(
            Checkpoints(
                Path(run.run.dir) / "checkpoints",
                keep_last=run.run.keep_last,
                keep_every=run.run.keep_every,
                fingerprint=fingerprint(run),
                as_now=functools.partial(as_now, run),
                peers=peers,
            )
        )
        stack.enter_context(peers.telling())
        built, data = _build(run, path)
        _check_same(peers, run, data)
        _check_rewards(data, pool, judge)
        with contextlib.closing(Loop(built, data, checkpoints, pool, judge, peers)) as loop:
            loop.start()
            return loop.steps()


def evaluate(path: Path, sets: Sequence[str], step: int | None) -> dict[str, float]:
    """Evaluates a checkpoint on the run's held-out questions; of several processes, the first returns the result."""
    run = load_run(path, sets)
    if not run.eval.prompts:
        raise ConfigError(f"{path}: eval.prompts = 0: expected how many held-out questions to evaluate on")
    with contextlib.ExitStack() as stack:
        judge = _judge(stack, run, path)
        assert judge is not None
        peers = _connect(stack)
        built, data = _build(run, path)
        _check_same(peers, run, data)
        _check_rewards(data, judge)
        from jaxrl_tok.train.evaluate import evaluate as measure

        params = _restore(built, run, step, peers)
        questions = data.collate(data.heldout(run.eval.prompts))
        metrics = measure(built, params, questions, data.tokenizer, judge, peers)
        return metrics if peers.first else {}


def sample(
    path: Path, sets: Sequence[str], prompts: Sequence[str], count: int, temperature: float, step: int | None
) -> list[list[str]]:
    """Returns `count` completions of each prompt; of several processes, the first one does."""
    with contextlib.ExitStack() as stack:
        peers = _connect(stack)
        run = load_run(path, sets)
        texts = _sample(run, path, prompts, count, temperature, step, peers)
        return texts if peers.first else []


def _sample(
    run: Run, path: Path, prompts: Sequence[str], count: int, temperature: float, step: int | None, peers: Any
) -> list[list[str]]:
    import numpy as np

    from jaxrl_tok.sharding.mesh import batch_shards
    from jaxrl_tok.sharding.place import shard_batch, to_host
    from jaxrl_tok.train.evaluate import completion_texts
    from jaxrl_tok.train.programs import EVAL
    from jaxrl_tok.types import Prompts, Sampling

    built, data = _build(run, path)
    params = _restore(built, run, step, peers)
    shards = batch_shards(built.mesh)
    padded = [*prompts, *[prompts[0]] * (-len(prompts) % shards)]
    tokens = np.full((len(padded), run.rollout.max_prompt), data.tokenizer.pad_id, np.int32)
    lengths = np.zeros(len(padded), np.int32)
    for i, prompt in enumerate(padded):
        ids = data.tokenizer.render(prompt)
        if not 0 < len(ids) <= run.rollout.max_prompt:
            raise DataError(f"prompt {prompt!r:.80}: {len(ids)} tokens, expected 1 to {run.rollout.max_prompt}")
        tokens[i, len(tokens[i]) - len(ids) :], lengths[i] = ids, len(ids)
    shape, settings = (len(padded), count), run.rollout
    asked = Sampling(
        limit=np.full(shape, settings.max_tokens, np.int32),
        temperature=np.full(shape, temperature, np.float32),
        top_k=np.full(shape, settings.top_k, np.int32),
        top_p=np.full(shape, settings.top_p, np.float32),
        min_p=np.full(shape, settings.min_p, np.float32),
    )
    placed = shard_batch((Prompts(tokens, lengths, np.arange(len(padded), dtype=np.int32)), asked), built.mesh)
    rollouts = to_host(built.evaluation(params, *placed, np.int32(EVAL), np.int32(0)).rollouts)
    texts = completion_texts(rollouts, data.tokenizer, settings.stop)
    return [texts[i * count : (i + 1) * count] for i in range(len(prompts))]


def export(path: Path, sets: Sequence[str], out: Path, step: int | None, part: str, dtype: str | None) -> None:
    """Writes the model of a checkpoint as a folder in Hugging Face form, or its adapters in PEFT form.

    `part` is "model" (with adapters added in), "adapters" or "base"; `dtype` that of the file: unless given, float32
    for adapters and bfloat16 for the rest.
    """
    from jaxrl_tok.io import export as files
    from jaxrl_tok.models import Lora
    from jaxrl_tok.train import parts

    run = load_run(path, sets)
    if isinstance(run.model, OwnModelConfig):
        raise ConfigError(f"{path}: model.function = {run.model.function}: only the built-in decoder can be exported")
    if part != "model" and not run.lora.rank:
        raise ConfigError(f"{path}: lora.rank = 0: expected adapters in a run of which to export the {part}")
    built, data = _build(run, path)
    params, policy = _restore(built, run, step), parts.policy_of(built.model)
    if part == "adapters":
        assert isinstance(policy, Lora)
        own = parts.policy_params(built.model, params)["lora"]
        files.export_adapters(own, policy, out, base=run.model.weights, dtype=dtype or "float32")
        return
    config = files.hf_config(
        run.model.model_dump() | {"vocab": built.model.vocab}, run.rollout.max_prompt + run.rollout.max_tokens
    )
    base = parts.policy_params(built.model, params)["base"] if part == "base" else None
    files.export(
        parts.plain_params(built.model, params) if base is None else base,
        built.base.specs(),
        config,
        data.tokenizer,
        out,
        dtype=dtype or "bfloat16",
        generation=files.hf_generation(run.model.weights),
    )


def open_data(run: Run) -> Any:
    """Returns the run's `Data`: source, tokenizer and split."""
    from jaxrl_tok.io import tokenizer as tokenizers
    from jaxrl_tok.io.data import Data
    from jaxrl_tok.io.data_sources import open_source

    settings = run.tokenizer
    if settings.kind == "characters":
        tokenizer = tokenizers.characters(settings.alphabet)
    elif settings.kind == "smollm2":
        from jaxrl_tok.io import smollm2

        tokenizer = smollm2.tokenizer()
    else:
        assert settings.path is not None  # checked with the config
        tokenizer = tokenizers.load(settings.path)
    return Data(
        open_source(run.data.source, **run.data.options),
        tokenizer,
        max_prompt=run.rollout.max_prompt,
        heldout_fraction=run.data.heldout_fraction,
        overlong=run.data.overlong,
    )


def _connect(stack: contextlib.ExitStack) -> Any:
    """Joins the other processes of the run, until the stack is closed; reward processes must have started."""
    from jaxrl_tok.io.distributed import connected

    return stack.enter_context(connected())


def _check_same(peers: Any, run: Run, data: Any) -> None:
    """Sees to it that all processes have the same run before them: each goes on as if the others had."""
    import jax

    own = {"run": run.model_dump_json(), "data": data.source.fingerprint, "jax": jax.__version__}
    for k, other in enumerate(peers.exchange(lambda: own)):
        if differing := [name for name in own if own[name] != other[name]]:
            what = " and ".join(differing)
            raise ConfigError(f"processes {peers.index} and {k} differ in {what}: expected the same on all")


def _build(run: Run, path: Path | None = None) -> tuple[Any, Any]:
    data = open_data(run)
    from jaxrl_tok.train.build import build

    return build(run, data.tokenizer, data.num_prompts, folder=None if path is None else path.parent), data


def _training_pool(stack: contextlib.ExitStack, run: Run, path: Path) -> RewardPool | None:
    if run.recipe.source != "rollout":
        return None
    specs = [RewardSpec(name, r.function, r.weight, r.options) for name, r in run.reward.items()]
    return stack.enter_context(_pool(specs, run, path, run.rewards.workers))


def _judge(stack: contextlib.ExitStack, run: Run, path: Path) -> RewardPool | None:
    if not run.eval.prompts:
        return None
    return stack.enter_context(_pool([RewardSpec("eval", run.eval.function)], run, path, workers=1))


def _check_rewards(data: Any, *pools: RewardPool | None) -> None:
    """Waits for the reward functions: a wrong one is reported before anything is computed."""
    for pool in pools:
        if pool is not None:
            pool.ready(data.columns)


def _pool(specs: Sequence[RewardSpec], run: Run, path: Path, workers: int) -> RewardPool:
    # Its import takes seconds, which must not count against the first sample's timeout.
    warm_up = ["jaxrl_tok.tasks.gym:reasoning_gym"] if run.data.source == "gym" else []
    timeout = run.rewards.timeout
    return RewardPool(specs, workers=workers, timeout=timeout, paths=[path.parent], warm_up=warm_up)


def _restore(built: Any, run: Run, step: int | None, peers: Any = None) -> Any:
    """Returns the parameters of the checkpoint at an RL step, or of the best one."""
    from jaxrl_tok.config.derived import as_now, fingerprint
    from jaxrl_tok.io.checkpoint import Checkpoints
    from jaxrl_tok.io.distributed import ALONE
    from jaxrl_tok.train.build import stored, with_base

    folder = Path(run.run.dir) / "checkpoints"
    known: dict[str, Any] = {"fingerprint": fingerprint(run), "as_now": functools.partial(as_now, run)}
    with Checkpoints(folder, **known, read_only=True, peers=peers or ALONE) as checkpoints:
        index = checkpoints.best() if step is None else step + built.warmup.steps
        template = dataclasses.replace(
            stored(built, built.main.template), opt_state=None, updates=None, ref_params=None, method_state=None
        )
        restored = checkpoints.restore(template, step=index, partial=True)
    if restored is None:
        raise CheckpointError(f"{folder}: no checkpoint to read; train the run first")
    return with_base(built, restored.state, folder, restored.host["base"]).model_params
