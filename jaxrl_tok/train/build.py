"""The composition root: from a resolved config to functions, shapes and shardings. No config object below it."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok import models
from jaxrl_tok.config.schema import ModelConfig, Run, TrainSection
from jaxrl_tok.errors import ConfigError, ShardingError
from jaxrl_tok.io import weights
from jaxrl_tok.io.tokenizer import Tokenizer
from jaxrl_tok.models import params as model_params
from jaxrl_tok.sharding.mesh import batch_shards, make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train import programs
from jaxrl_tok.train.compilation import compiled
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
    init_methods: Callable[[], dict[str, Any]]  # the states of stateful methods
    template: TrainState  # shapes, dtypes and shardings of the state; the same in both stages
    assemble: Callable[..., Any]
    update: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Build:
    """All that the loop calls."""

    run: Run
    model: models.Model
    specs: Any
    mesh: Mesh
    warmup: Stage
    main: Stage
    rollout: Callable[..., Any]
    score: Callable[..., Any]
    distances: Callable[..., Any]
    priority: Callable[..., Any]
    filtered: bool  # whether the sampler drops tokens


def architecture(model: ModelConfig, train: TrainSection, vocab: int) -> models.Architecture:
    """Returns the model's sizes, with the vocabulary of the tokenizer unless the model sets a larger one."""
    options = model.model_dump(exclude={"name", "weights", "vocab", "rope", "local_rope"})
    local = None if model.local_rope is None else models.Rope(**model.local_rope.model_dump())
    return models.Architecture(
        **options,
        vocab=model.vocab or vocab,
        rope=models.Rope(**model.rope.model_dump()),
        local_rope=local,
        dtype=train.dtype,
        remat=train.remat,
        unroll=min(train.unroll, model.layers),
    )


def build(run: Run, tokenizer: Tokenizer, num_prompts: int | None = None) -> Build:
    """Builds everything that a run calls. `num_prompts` is the size of its data set, None for an endless one.

    Raises:
      ConfigError: the recipe cannot be bound, or keeps something for each prompt of an endless set.
      ShardingError: the mesh does not fit the devices, the parameters or the batch.
    """
    model = models.Transformer(architecture(run.model, run.train, tokenizer.size))
    specs = model.specs()
    mesh = make_mesh(run.mesh.model_dump())
    _check_batch(run, batch_shards(mesh))
    rollout = run.rollout
    warmup, main = _stages(run, model, specs, mesh, num_prompts)
    return Build(
        run=run,
        model=model,
        specs=specs,
        mesh=mesh,
        warmup=warmup,
        main=main,
        rollout=programs.rollout_program(
            model,
            mesh,
            seed=run.run.seed,
            max_tokens=rollout.max_tokens,
            end_ids=tokenizer.eos_ids,
            slots=rollout.slots or rollout.prompts * rollout.group,
        ),
        score=programs.score_program(model),
        distances=programs.distances_program(model),
        priority=programs.priority_program(run.run.seed),
        filtered=rollout.top_k > 0 or rollout.top_p < 1 or rollout.min_p > 0,
    )


def init_state(built: Build) -> TrainState:
    """Returns the state that a run starts from, on the mesh."""
    first = built.warmup if built.warmup.steps else built.main
    dtype, shardings = jnp.dtype(built.run.train.param_dtype), _shardings(first.template.params)
    if built.run.model.weights is not None:
        return fresh_stage(first, weights.load(built.run.model.weights, built.specs, shardings, dtype))
    draw = functools.partial(model_params.init, built.specs, built.run.run.seed, dtype)
    return fresh_stage(first, compiled(draw, out_shardings=shardings)())


def fresh_stage(stage: Stage, params: Any) -> TrainState:
    """Returns the state at the start of a stage: its optimizer new, the reference a copy of the policy."""

    def start(params: Any) -> TrainState:
        reference = None if stage.template.ref_params is None else jax.tree.map(jnp.copy, params)
        return TrainState(params, stage.init_optimizer(params), jnp.int32(0), reference, stage.init_methods())

    return compiled(start, out_shardings=_shardings(stage.template))(params)


def _template(
    run: Run,
    specs: Any,
    mesh: Mesh,
    init_optimizer: Callable[[Any], Any],
    init_methods: Callable[[], dict[str, Any]],
    reference: bool,
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state."""
    params = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        model_params.abstract(specs, jnp.dtype(run.train.param_dtype)),
        param_shardings(specs, mesh),
    )
    whole = NamedSharding(mesh, PartitionSpec())
    # What the optimizer keeps for each parameter lies as the parameter does; its counters are everywhere.
    opt_state = optax.tree_utils.tree_map_params(
        init_optimizer,
        lambda x, param: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=param.sharding),
        jax.eval_shape(init_optimizer, params),
        params,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
    )
    updates = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    everywhere = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole))
    method_state = everywhere(jax.eval_shape(init_methods))
    return TrainState(params, opt_state, updates, params if reference else None, method_state)


def _shardings(template: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, template)


def sampling(run: Run, prompts: int) -> Sampling:
    """Returns the training sampler's settings for every request of a batch."""
    rollout = run.rollout
    shape = (prompts, rollout.group)
    return Sampling(
        limit=np.full(shape, rollout.max_tokens, np.int32),
        temperature=np.full(shape, rollout.temperature, np.float32),
        top_k=np.full(shape, rollout.top_k, np.int32),
        top_p=np.full(shape, rollout.top_p, np.float32),
        min_p=np.full(shape, rollout.min_p, np.float32),
    )


def _stages(run: Run, model: models.Model, specs: Any, mesh: Mesh, num_prompts: int | None) -> tuple[Stage, Stage]:
    """Returns the warm-up and the main part."""
    warm, rate_of, train = run.warmup, run.optimizer, run.train
    warm_rate = schedule(warm.schedule, warm.learning_rate, warmup=warm.warmup_steps, total=warm.steps)
    updates = train.minibatches * train.epochs
    total = run.run.steps * updates
    main_rate = schedule(rate_of.schedule, rate_of.learning_rate, warmup=rate_of.warmup_steps, total=total)
    warm_recipe, main_recipe = (build_recipe(recipe, model.vocab) for recipe in (warm.recipe, run.recipe))
    # What the main part keeps, the warm-up's checkpoints have a place for.
    shared = {
        "reference": main_recipe.keeps_reference,
        "init_methods": _method_states(run.recipe.name, main_recipe, num_prompts),
    }
    stage = functools.partial(_stage, run, model, specs, mesh, **shared)
    return (
        stage("warmup", warm_recipe, warm_rate, steps=warm.steps, prompts=warm.batch, parts=(1, 1, 1)),
        stage(
            "train", main_recipe, main_rate, steps=run.run.steps, prompts=run.rollout.prompts,
            parts=(train.epochs, train.minibatches, train.microbatches),
        ),
    )  # fmt: skip


def _stage(
    run: Run,
    model: models.Model,
    specs: Any,
    mesh: Mesh,
    name: str,
    recipe: Recipe,
    rate: optax.Schedule,
    *,
    steps: int,
    prompts: int,
    parts: tuple[int, int, int],
    reference: bool,
    init_methods: Callable[[], dict[str, Any]],
) -> Stage:
    settings = run.optimizer.model_dump(include={"b1", "b2", "eps", "weight_decay", "clip_norm"})
    chain = optimizer(rate, model_params.decay_mask(specs), **settings)
    template = _template(run, specs, mesh, chain.init, init_methods, reference)
    shardings = _shardings(template)
    epochs, minibatches, microbatches = parts
    return Stage(
        name=name,
        recipe=recipe,
        steps=steps,
        prompts=prompts,
        group=run.rollout.group if recipe.source == "rollout" else 1,
        updates=minibatches * epochs,
        minibatches=minibatches,
        init_optimizer=chain.init,
        init_methods=init_methods,
        template=template,
        assemble=programs.assemble_program(recipe, shardings),
        update=programs.update_program(
            recipe, model, chain, rate,
            minibatches=minibatches, microbatches=microbatches, shardings=shardings,
        ),
    )  # fmt: skip


def _method_states(name: str, recipe: Recipe, num_prompts: int | None) -> Callable[[], dict[str, Any]]:
    """Returns a function that makes the first states of the recipe's stateful methods, by their paths."""
    inits: dict[str, Callable[[], Any]] = {}
    for path, method in recipe.stateful.items():
        assert method.init is not None
        inits[path] = method.init
        if "num_prompts" in inspect.signature(method.init).parameters:
            if num_prompts is None:
                raise ConfigError(
                    f"recipe {name}: {path} = {method.name!r} keeps something for each prompt, which needs a finite "
                    "set of questions; data.source is endless"
                )
            inits[path] = functools.partial(method.init, num_prompts=num_prompts)
    return lambda: {path: init() for path, init in inits.items()}


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
