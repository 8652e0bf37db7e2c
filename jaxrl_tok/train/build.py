"""The composition root: from a resolved config to functions, shapes and shardings. No config object below it."""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok import models
from jaxrl_tok.config.derived import mesh_sizes
from jaxrl_tok.config.schema import ModelConfig, OwnModelConfig, Run, TrainSection
from jaxrl_tok.errors import ConfigError, ShardingError
from jaxrl_tok.io import weights
from jaxrl_tok.io.tokenizer import Vocabulary
from jaxrl_tok.models import params as model_params
from jaxrl_tok.sharding.mesh import batch_shards, make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train import own_model, parts, programs
from jaxrl_tok.train.compilation import compiled
from jaxrl_tok.train.optimizer import grouped, optimizer, schedule
from jaxrl_tok.train.recipe import Recipe, build_recipe
from jaxrl_tok.types import LeftOut, Sampled, TrainState


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
    microbatches: int
    model: models.Model
    init_optimizer: Callable[[Any], Any]
    init_methods: Callable[[], dict[str, Any]]  # the states of stateful methods
    template: TrainState  # shapes, dtypes and shardings of the state; the same in both stages
    assemble: Callable[..., Any]
    update: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Build:
    """All that the loop calls."""

    run: Run
    base: models.Model  # without adapters and critic
    model: models.Model
    specs: Any
    mesh: Mesh
    warmup: Stage
    main: Stage
    rollout: Callable[..., Sampled]  # of independent completions
    evaluation: Callable[..., Sampled]  # as evaluation samples them
    score: Callable[..., Any]
    score_reference: Callable[..., Any]
    distances: Callable[..., Any]
    priority: Callable[..., Any]
    filtered: bool  # whether the sampler drops tokens
    left_out: LeftOut | None = None  # those that it never draws
    method: Callable[..., Sampled] | None = None  # the recipe's rollouts, where completions are not independent
    chunks: programs.Chunks | None = None  # where independent completions are sampled a few steps at a time
    reloads: bool = False  # checkpoints leave out the frozen base, which is read from its weights again
    given: Any = None  # parameters that came with the model, or what makes them; None = they are drawn or loaded
    dtype: str = "float32"  # of activations and matrix products


def architecture(
    model: ModelConfig, train: TrainSection, vocab: int, scan_decoding: bool = False, platform: str = "cpu"
) -> models.Architecture:
    """Returns the model's sizes, with the vocabulary of the tokenizer unless the model sets a larger one."""
    options = model.model_dump(exclude={"name", "weights", "vocab", "rope", "local_rope"})
    local = None if model.local_rope is None else models.Rope(**model.local_rope.model_dump())
    return models.Architecture(
        **options,
        vocab=model.vocab or vocab,
        rope=models.Rope(**model.rope.model_dump()),
        local_rope=local,
        dtype=compute_dtype(train, platform),
        remat=train.remat,
        unroll=min(train.unroll, model.layers),
        scan_decoding=scan_decoding,
        share_prompt=train.share_prefix != "none",
    )


def compute_dtype(train: TrainSection, platform: str) -> str:
    """Returns the type of activations and matrix products on devices of a platform ("cpu", "gpu", "tpu")."""
    if train.dtype != "auto":
        return train.dtype
    return "float32" if platform == "cpu" else "bfloat16"


def build(
    run: Run,
    tokenizer: Vocabulary,
    num_prompts: int | None = None,
    devices: Sequence[Any] | None = None,
    folder: Path | None = None,
) -> Build:
    """Builds everything that a run calls. `num_prompts` is the size of its data set, None for an endless one.

    `folder` is that of the run file, where a model of the user's own is.

    `devices` are all that JAX shows, or those of a topology that is not there: nothing is computed here, and
    `built.main.update.lower(...)` and the other programs compile for them, of arguments with their shardings
    (`built.main.template`, and `BATCH_AXES` on the first axis of a batch).

    Raises:
      ConfigError: the recipe cannot be bound, or keeps something for each prompt of an endless set.
      ShardingError: the mesh does not fit the devices, the parameters or the batch.
    """
    devices = jax.devices() if devices is None else devices
    platform = devices[0].platform
    base, given = _model(run, tokenizer.size, folder, platform)
    model = parts.with_parts(base, run)
    specs = model.specs()
    sizes = mesh_sizes(run, len(devices))
    used = devices[: math.prod(sizes.values())]
    if {device.process_index for device in used} != {device.process_index for device in devices}:
        raise ShardingError(f"mesh.preset = {run.mesh.preset!r}: leaves processes without a device; expected another")
    mesh = make_mesh(sizes, used, slices=run.mesh.slices, slice_axis=run.mesh.slice_axis)
    _check_batch(run, batch_shards(mesh))
    warmup, main = _stages(run, model, specs, mesh, num_prompts)
    decoding = parts.decoding_of(run, main.recipe, tokenizer, model, compute_dtype(run.train, platform))
    score, reference = programs.score_program(model, mesh, decoding.left_out), parts.reference_of(model)
    rollout, evaluation = parts.rollout_of(model, mesh, decoding)
    return Build(
        run=run,
        base=base,
        model=model,
        specs=specs,
        mesh=mesh,
        warmup=warmup,
        main=main,
        rollout=rollout,
        evaluation=evaluation,
        method=parts.method_of(run, main.recipe, model, mesh, tokenizer, decoding),
        chunks=parts.chunks_of(run, main.recipe, model, mesh, decoding),
        score=score,
        score_reference=score if reference == model else programs.score_program(reference, mesh, decoding.left_out),
        distances=programs.distances_program(model, reference, mesh),
        priority=programs.priority_program(mesh, run.run.seed),
        filtered=run.rollout.top_k > 0 or run.rollout.top_p < 1 or run.rollout.min_p > 0,
        left_out=decoding.left_out,
        reloads=run.lora.rank > 0 and not isinstance(run.model, OwnModelConfig) and run.model.weights is not None,
        given=given,
        dtype=compute_dtype(run.train, platform),
    )


def _model(run: Run, vocab: int, folder: Path | None, platform: str) -> tuple[models.Model, Any]:
    """Returns the model, and the parameters that come with it."""
    if isinstance(run.model, OwnModelConfig):
        return own_model.load(run.model, run, vocab, folder, compute_dtype(run.train, platform))
    return models.Transformer(architecture(run.model, run.train, vocab, run.rollout.scan_layers, platform)), None


def init_state(built: Build) -> TrainState:
    """Returns the state that a run starts from, on the mesh."""
    first = built.warmup if built.warmup.steps else built.main
    params = parts.around(built.model, base_params(built), functools.partial(_draw, built))
    return fresh_stage(first, *model_params.split(built.specs, params))


def base_params(built: Build) -> Any:
    """Returns the parameters that the base starts from, without adapters and critic."""
    dtype = jnp.dtype(built.run.train.param_dtype)
    specs = built.base.specs()
    shardings = param_shardings(specs, built.mesh)
    if isinstance(built.run.model, OwnModelConfig):
        return own_model.first_params(built.given, shardings, dtype)
    if built.run.model.weights is not None:
        return weights.load(built.run.model.weights, specs, shardings, dtype)
    return _draw(built, specs)


def _draw(built: Build, specs: Any) -> Any:
    dtype = jnp.dtype(built.run.train.param_dtype)
    draw = functools.partial(model_params.init, specs, built.run.run.seed, dtype)
    return compiled(draw, out_shardings=param_shardings(specs, built.mesh))()


def fresh_stage(stage: Stage, params: Any, frozen: Any = None) -> TrainState:
    """Returns the state at the start of a stage: its optimizer new, the reference a copy of the policy."""

    def start(params: Any) -> TrainState:
        reference = None
        if stage.template.ref_params is not None:
            reference = jax.tree.map(jnp.copy, parts.policy_params(stage.model, params))
        return TrainState(params, stage.init_optimizer(params), jnp.int32(0), reference, stage.init_methods())

    shardings = _shardings(dataclasses.replace(stage.template, frozen=None))
    return dataclasses.replace(compiled(start, out_shardings=shardings)(params), frozen=frozen)


def stored(built: Build, state: TrainState) -> TrainState:
    """Returns what a checkpoint has of a state, or of a template: of a frozen base only what cannot be had again."""
    return dataclasses.replace(state, frozen=None) if built.reloads else state


def with_base(built: Build, state: TrainState, checkpoint: Any, digest: str | None) -> TrainState:
    """Returns a restored state with the base that its checkpoint left out.

    Raises:
      CheckpointError: the weights are not those that the adapters were trained on.
    """
    if not built.reloads:
        return state
    assert not isinstance(built.run.model, OwnModelConfig) and built.run.model.weights is not None
    frozen = parts.frozen_params(built.model, built.specs, base_params(built))
    parts.check_base(frozen, digest or "", checkpoint, built.run.model.weights)
    return dataclasses.replace(state, frozen=frozen)


def _template(
    run: Run,
    model: models.Model,
    specs: Any,
    mesh: Mesh,
    init_optimizer: Callable[[Any], Any],
    init_methods: Callable[[], dict[str, Any]],
    reference: bool,
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state."""
    every = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        model_params.abstract(specs, jnp.dtype(run.train.param_dtype)),
        param_shardings(specs, mesh),
    )
    params, frozen = model_params.split(specs, every)
    whole = NamedSharding(mesh, PartitionSpec())

    def beside(x: Any, param: Any) -> Any:
        return x if other_group(x) else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=param.sharding)

    def other_group(x: Any) -> bool:
        return isinstance(x, optax.MaskedNode)

    # What the optimizer keeps for each parameter lies as the parameter does; its counters are everywhere.
    opt_state = optax.tree_utils.tree_map_params(
        init_optimizer,
        beside,
        jax.eval_shape(init_optimizer, params),
        params,
        transform_non_params=lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole),
        is_leaf=other_group,
    )
    updates = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
    everywhere = functools.partial(jax.tree.map, lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole))
    method_state = everywhere(jax.eval_shape(init_methods))
    ref_params = parts.policy_params(model, params) if reference and frozen is None else None
    return TrainState(params, opt_state, updates, ref_params, method_state, frozen)


def _shardings(template: Any) -> Any:
    return jax.tree.map(lambda x: x.sharding, template)


def _stages(run: Run, model: models.Model, specs: Any, mesh: Mesh, num_prompts: int | None) -> tuple[Stage, Stage]:
    """Returns the warm-up and the main part."""
    warm, rate_of, train = run.warmup, run.optimizer, run.train
    warm_rate = schedule(warm.schedule, warm.learning_rate, warmup=warm.warmup_steps, total=warm.steps)
    updates = train.minibatches * train.epochs
    total = run.run.steps * updates
    main_rate = schedule(rate_of.schedule, rate_of.learning_rate, warmup=rate_of.warmup_steps, total=total)
    bind = functools.partial(build_recipe, vocab_size=model.vocab, parts=parts.parts_of(run))
    warm_recipe, main_recipe = bind(warm.recipe), bind(run.recipe)
    parts.check_critic(run, main_recipe)
    # What the main part keeps, the warm-up's checkpoints have a place for.
    shared = {
        "reference": main_recipe.keeps_reference,
        "init_methods": _method_states(run.recipe.name, main_recipe, num_prompts),
    }
    stage = functools.partial(_stage, run, model, specs, mesh, **shared)
    return (
        stage("warmup", warm_recipe, warm_rate, steps=warm.steps, prompts=warm.batch, cut=(1, 1, 1)),
        stage(
            "train", main_recipe, main_rate, steps=run.run.steps, prompts=run.rollout.prompts,
            cut=(train.epochs, train.minibatches, train.microbatches),
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
    cut: tuple[int, int, int],
    reference: bool,
    init_methods: Callable[[], dict[str, Any]],
) -> Stage:
    chain = _optimizer(run, specs, rate)
    template = _template(run, model, specs, mesh, chain.init, init_methods, reference)
    shardings = _shardings(template)
    epochs, minibatches, microbatches = cut
    return Stage(
        name=name,
        recipe=recipe,
        steps=steps,
        prompts=prompts,
        group=run.rollout.group if recipe.source == "rollout" else 1,
        updates=minibatches * epochs,
        minibatches=minibatches,
        microbatches=microbatches,
        model=model,
        init_optimizer=chain.init,
        init_methods=init_methods,
        template=template,
        assemble=programs.assemble_program(recipe, mesh, shardings),
        update=programs.update_program(
            recipe, model, mesh, chain, rate,
            minibatches=minibatches, microbatches=microbatches, shardings=shardings,
        ),
    )  # fmt: skip


def _optimizer(run: Run, specs: Any, rate: optax.Schedule) -> optax.GradientTransformation:
    """Returns the optimizer of what is trained; the critic's head has a rate of its own."""
    settings = run.optimizer.model_dump(include={"b1", "b2", "eps", "weight_decay", "clip_norm", "state_dtype"})
    trained = model_params.split(specs, specs)[0]
    groups = model_params.tree_map_specs(lambda spec: spec.group, trained)
    rates = {"policy": rate, "critic": _critic_rate(run)}
    decay = model_params.decay_mask(trained)
    return grouped({name: optimizer(rates[name], decay, **settings) for name in {*jax.tree.leaves(groups)}}, groups)


def _critic_rate(run: Run) -> optax.Schedule:
    updates = run.run.steps * run.train.minibatches * run.train.epochs
    of = run.optimizer
    return schedule(of.schedule, run.critic.learning_rate, warmup=of.warmup_steps, total=updates)


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
                f"{key}: {size} prompts{part} do not divide over {shards} shards of the batch "
                "(mesh data x fsdp x expert)"
            )
