"""The composition root: from a resolved config to functions, shapes and shardings. No config object below it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jaxrl_tok import models
from jaxrl_tok.config.schema import ModelConfig, Run, TrainSection
from jaxrl_tok.errors import ShardingError
from jaxrl_tok.io.tokenizer import Tokenizer
from jaxrl_tok.models import params as model_params
from jaxrl_tok.models import transformer
from jaxrl_tok.sharding.mesh import batch_shards, make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train import programs
from jaxrl_tok.train.optimizer import optimizer, schedule
from jaxrl_tok.train.recipe import Recipe, build_recipe
from jaxrl_tok.types import Sampling, TrainState


@dataclasses.dataclass(frozen=True)
class Stage:
    """One part of a run with its own recipe and optimizer: the warm-up on answers, or the main part."""

    name: str
    recipe: Recipe
    steps: int
    prompts: int  # P
    group: int  # G; 1 on answers
    updates: int  # a step
    minibatches: int
    init_optimizer: Callable[[Any], Any]
    assemble: Callable[..., Any]
    update: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Build:
    """All that the loop calls."""

    run: Run
    arch: models.Architecture
    specs: Any
    mesh: Mesh
    warmup: Stage
    main: Stage
    rollout: Callable[..., Any]
    score: Callable[..., Any]
    filtered: bool  # whether the sampler drops tokens

    @property
    def reads_reference(self) -> bool:
        """Whether some slot reads the frozen reference policy."""
        return self.main.recipe.passes(self.main.updates)["reference"]


def architecture(model: ModelConfig, train: TrainSection, vocab: int) -> models.Architecture:
    """Returns the model's sizes, with the vocabulary of the tokenizer unless the model sets a larger one."""
    options = model.model_dump(exclude={"name", "vocab"})
    dtype, remat, unroll = train.dtype, train.remat, min(train.unroll, model.layers)
    return models.Architecture(**options, vocab=model.vocab or vocab, dtype=dtype, remat=remat, unroll=unroll)


def build(run: Run, tokenizer: Tokenizer) -> Build:
    """Builds everything that a run calls.

    Raises:
      ConfigError: the recipe cannot be bound.
      ShardingError: the mesh does not fit the devices, the parameters or the batch.
    """
    arch = architecture(run.model, run.train, tokenizer.size)
    specs = transformer.specs(arch)
    mesh = make_mesh(run.mesh.model_dump())
    _check_batch(run, batch_shards(mesh))
    rollout = run.rollout
    return Build(
        run=run,
        arch=arch,
        specs=specs,
        mesh=mesh,
        warmup=_warmup(run, arch, specs),
        main=_main(run, arch, specs),
        rollout=programs.rollout_program(
            arch,
            mesh,
            seed=run.run.seed,
            max_tokens=rollout.max_tokens,
            end_ids=tokenizer.eos_ids,
            slots=rollout.slots or rollout.prompts * rollout.group,
        ),
        score=programs.score_program(arch),
        filtered=rollout.top_k > 0 or rollout.top_p < 1 or rollout.min_p > 0,
    )


def init_state(built: Build) -> TrainState:
    """Returns the state that a run starts from, on the mesh."""
    shardings = param_shardings(built.specs, built.mesh)
    dtype = jnp.dtype(built.run.train.param_dtype)
    draw = jax.jit(
        functools.partial(model_params.init, built.specs, built.run.run.seed, dtype), out_shardings=shardings
    )
    params = draw()
    first = built.warmup if built.warmup.steps else built.main
    return fresh_stage(built, first, TrainState(params, None, None, None, ()))


def fresh_stage(built: Build, stage: Stage, state: TrainState) -> TrainState:
    """Returns the state at the start of a stage: its optimizer new, the reference a copy of the policy."""
    reference = jax.tree.map(jnp.copy, state.params) if built.reads_reference else None
    opt_state = jax.jit(stage.init_optimizer)(state.params)
    return state.replace(opt_state=opt_state, updates=jnp.int32(0), ref_params=reference)


def sampling(run: Run, prompts: int) -> Sampling:
    """Returns the training sampler's settings for every request of a batch."""
    rollout = run.rollout
    shape = (prompts, rollout.group)
    return Sampling(
        limit=jnp.full(shape, rollout.max_tokens, jnp.int32),
        temperature=jnp.full(shape, rollout.temperature, jnp.float32),
        top_k=jnp.full(shape, rollout.top_k, jnp.int32),
        top_p=jnp.full(shape, rollout.top_p, jnp.float32),
        min_p=jnp.full(shape, rollout.min_p, jnp.float32),
    )


def _warmup(run: Run, arch: models.Architecture, specs: Any) -> Stage:
    warm = run.warmup
    rate = schedule(warm.schedule, warm.learning_rate, warmup=warm.warmup_steps, total=warm.steps)
    return _stage("warmup", run, build_recipe(warm.recipe), arch, specs, rate, warm.steps, warm.batch, parts=(1, 1))


def _main(run: Run, arch: models.Architecture, specs: Any) -> Stage:
    rate_of, train = run.optimizer, run.train
    updates = train.minibatches * train.epochs
    rate = schedule(
        rate_of.schedule,
        rate_of.learning_rate,
        warmup=rate_of.warmup_steps,
        total=run.run.steps * updates,
    )
    parts = (train.minibatches, train.epochs)
    recipe = build_recipe(run.recipe)
    return _stage("train", run, recipe, arch, specs, rate, run.run.steps, run.rollout.prompts, parts=parts)


def _stage(
    name: str,
    run: Run,
    recipe: Recipe,
    arch: models.Architecture,
    specs: Any,
    rate: optax.Schedule,
    steps: int,
    prompts: int,
    *,
    parts: tuple[int, int],
) -> Stage:
    chain = optimizer(
        rate,
        model_params.decay_mask(specs),
        **run.optimizer.model_dump(include={"b1", "b2", "eps", "weight_decay", "clip_norm"}),
    )
    minibatches, epochs = parts
    microbatches = run.train.microbatches if name == "train" else 1
    return Stage(
        name=name,
        recipe=recipe,
        steps=steps,
        prompts=prompts,
        group=run.rollout.group if recipe.source == "rollout" else 1,
        updates=minibatches * epochs,
        minibatches=minibatches,
        init_optimizer=chain.init,
        assemble=programs.assemble_program(recipe),
        update=programs.update_program(
            recipe, arch, chain, rate, minibatches=minibatches, microbatches=microbatches
        ),
    )


def _check_batch(run: Run, shards: int) -> None:
    sizes = {"rollout.prompts": run.rollout.prompts // run.train.minibatches // run.train.microbatches}
    if run.warmup.steps:
        sizes["warmup.batch"] = run.warmup.batch
    if run.eval.prompts:
        sizes["eval.prompts"] = run.eval.prompts
    for key, size in sizes.items():
        if size % shards:
            part = " a microbatch" if key == "rollout.prompts" else ""
            raise ShardingError(
                f"{key}: {size} prompts{part} do not divide over {shards} shards of the batch (mesh data x fsdp)"
            )
