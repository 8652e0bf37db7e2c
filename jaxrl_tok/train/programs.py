"""The compiled programs of a run, each with its shapes fixed: roll out, score, assemble, update."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok import models
from jaxrl_tok.rollouts import chunks
from jaxrl_tok.rollouts.extend import Contains, Engine, Temper, nothing_contains
from jaxrl_tok.rollouts.generate import plain, request_keys
from jaxrl_tok.rollouts.stop_strings import StopTable
from jaxrl_tok.scores.normalized_entropy import EntropyScale
from jaxrl_tok.sharding.mesh import BATCH_AXES, batch_shards
from jaxrl_tok.sharding.rules import ROLLOUT_RULES, param_shardings
from jaxrl_tok.train.assemble import States, assemble
from jaxrl_tok.train.compilation import compiled
from jaxrl_tok.train.recipe import Recipe
from jaxrl_tok.train.rows import take
from jaxrl_tok.train.score import Scores, distances, score
from jaxrl_tok.train.step import train_step
from jaxrl_tok.types import Batch, Leaf, LeftOut, Prompts, Rollouts, Sampled, Sampling, TrainState, Tries

# Training, evaluation and the tokens' priorities draw from different streams of keys.
TRAIN, EVAL, PRIORITY = 0, 1, 2


@dataclasses.dataclass(frozen=True)
class Decoding:
    """How the programs of a run sample, whatever they sample."""

    seed: int
    max_tokens: int
    end_ids: tuple[int, ...]
    slots: int  # shared evenly by the shards of the batch, at least one for each
    wave: int = 0  # prompts read at once, shared in the same way; 0 = all
    dtype: str | None = None  # of the computation; None = that of the parameters
    stops: StopTable | None = None
    left_out: LeftOut | None = None  # tokens that are never drawn
    temper: Temper | None = None  # where each token has a temperature of its own: programs take a scale besides
    contains: Contains = nothing_contains  # what methods know of the tokens' texts

    def keys(self, prompts: Prompts, sampling: Sampling, stream: Leaf, step: Leaf) -> Leaf:
        """Returns the keys of a batch's requests."""
        group = jnp.arange(sampling.limit.shape[1])
        return request_keys(jnp.uint32(self.seed), stream, step, prompts.ids, group)

    def engine(self, mesh: Mesh) -> dict[str, Any]:
        """Returns the settings of the `Engine` of each shard."""
        names = ("max_tokens", "end_ids", "stops", "left_out", "temper", "contains")
        slots, wave = (-(-count // batch_shards(mesh)) for count in (self.slots, self.wave))
        own = {"axis_name": _manual(mesh) or None, "slots": slots, "wave": wave}
        return {name: getattr(self, name) for name in names} | own


def rollout_program(
    model: models.Model, mesh: Mesh, decoding: Decoding, method: Callable[..., Sampled] = plain
) -> Callable[..., Sampled]:
    """Returns `f(params, prompts, sampling, stream, step) -> Sampled`: rollouts by a method of `rollouts/`.

    With `decoding.temper` it also takes the scale of the entropies. The shards run apart, each on its part of the
    parameters' rollout layout: gathered along the model's width once a call, in the type of the computation.
    """
    how = decoding.engine(mesh)

    def sample(
        params: Any, prompts: Prompts, sampling: Sampling, stream: Leaf, step: Leaf, scale: EntropyScale | None = None
    ) -> Sampled:
        engine = Engine.read(params, model, prompts, scale=scale, **how)
        return method(engine, decoding.keys(prompts, sampling, stream, step), sampling)

    return compiled(_by_shard(sample, model, mesh, decoding.dtype), mesh)


class Chunks(NamedTuple):
    """The programs of sampling in chunks: what `rollouts/chunks.py` has, compiled.

    `first(params, prompts, sampling, stream, step) -> (read, state)`, with a scale where there is one, then
    `chunk(prompts, read, state) -> (state, progress)` as often as it takes, which reuses the state's buffers, and
    `result(read, state) -> rollouts`.
    """

    first: Callable[..., Any]
    chunk: Callable[..., Any]
    result: Callable[..., Rollouts]


def chunk_programs(model: models.Model, mesh: Mesh, decoding: Decoding, steps: int) -> Chunks:
    """Returns what samples independent completions as `rollout_program` does, in calls of `steps` decode steps each."""
    manual, how = _manual(mesh), decoding.engine(mesh)

    def first(params: Any, prompts: Prompts, sampling: Sampling, stream: Leaf, step: Leaf, scale: Any = None) -> Any:
        keys = decoding.keys(prompts, sampling, stream, step)
        return chunks.first(params, model, prompts, keys, sampling, scale, **how)

    def chunk(prompts: Prompts, read: chunks.Read, state: Any) -> Any:
        return chunks.chunk(read, state, model, prompts, steps=steps, **how)

    def on_shards(function: Callable[..., Any]) -> Callable[..., Any]:
        rows = PartitionSpec(manual)
        return jax.shard_map(function, axis_names={*manual}, in_specs=rows, out_specs=rows) if manual else function

    # The state lies after a chunk as before it, or the second one would compile again. Where layers are split over
    # devices, how is the compiler's choice, and it may do so once.
    split = math.prod(size for axis, size in mesh.shape.items() if axis not in BATCH_AXES) > 1
    lies = {} if split else {"out_shardings": NamedSharding(mesh, PartitionSpec(manual))}
    return Chunks(
        first=compiled(_by_shard(first, model, mesh, decoding.dtype), mesh, **lies),
        chunk=compiled(on_shards(chunk), mesh, donate_argnums=2, **lies),
        result=compiled(on_shards(chunks.result), mesh),
    )


def _manual(mesh: Mesh) -> tuple[str, ...]:
    """The axes over which the shards of a batch run apart."""
    return tuple(axis for axis in BATCH_AXES if mesh.shape[axis] > 1)


def _by_shard(sample: Callable[..., Any], model: models.Model, mesh: Mesh, dtype: str | None) -> Callable[..., Any]:
    """Runs `sample(params, prompts, sampling, ...)` on each shard of the batch; results lie by prompt."""
    manual = _manual(mesh)

    def run(params: Any, *arrays: Any) -> Any:
        specs = model.specs()
        stored, wanted = param_shardings(specs, mesh), param_shardings(specs, mesh, ROLLOUT_RULES)
        params = jax.tree.map(functools.partial(_brought, dtype=dtype), params, stored, wanted)
        if not manual:
            return sample(params, *arrays)
        rows, whole = PartitionSpec(manual), PartitionSpec()
        own = jax.tree.map(lambda sharding: _only(sharding.spec, manual), wanted)
        specs = {"in_specs": (own, rows, rows, *[whole] * (len(arrays) - 2)), "out_specs": rows}
        return jax.shard_map(sample, axis_names={*manual}, **specs)(params, *arrays)

    return run


def _brought(param: Leaf, stored: NamedSharding, wanted: NamedSharding, *, dtype: str | None) -> Leaf:
    """Lays a parameter out for rollouts. What travels is converted before, to half the bytes."""
    if stored == wanted:
        return param
    return jax.lax.with_sharding_constraint(param if dtype is None else param.astype(dtype), wanted.spec)


def _only(spec: PartitionSpec, axes: tuple[str, ...]) -> PartitionSpec:
    """Returns the part of a spec that is about some mesh axes."""
    parts = ((part,) if isinstance(part, str) else part or () for part in spec)
    return PartitionSpec(*(tuple(name for name in part if name in axes) or None for part in parts))


def score_program(model: models.Model, mesh: Mesh, left_out: LeftOut | None = None) -> Callable[..., Scores]:
    """Returns `f(params, prompts, rollouts, tries, filtered, statistics) -> Scores`; tries or None."""

    def run(
        params: Any,
        prompts: Prompts,
        rollouts: Rollouts,
        tries: Tries | None,
        filtered: bool,
        statistics: tuple[str, ...] = (),
    ) -> Scores:
        thresholds = rollouts.keep_thresholds if filtered else None
        sampled = (rollouts.tokens, rollouts.mask, rollouts.temperature, thresholds)
        return score(params, model, prompts, *sampled, tries, left_out=left_out, statistics=statistics)

    return compiled(run, mesh, static_argnames=("filtered", "statistics"))


def distances_program(model: models.Model, reference: models.Model, mesh: Mesh) -> Callable[..., dict[str, Leaf]]:
    """Returns `f(params, ref_params, prompts, rollouts, tries, kinds) -> distances by name`; tries or None."""

    def run(
        params: Any,
        ref_params: Any,
        prompts: Prompts,
        rollouts: Rollouts,
        tries: Tries | None,
        kinds: tuple[str, ...],
    ) -> dict[str, Leaf]:
        sampled = (rollouts.tokens, rollouts.mask, rollouts.temperature, tries)
        return distances(params, ref_params, model, reference, prompts, *sampled, kinds=kinds)

    return compiled(run, mesh, static_argnames="kinds")


def priority_program(mesh: Mesh, seed: int) -> Callable[..., Leaf]:
    """Returns `f(ids, mask, step) -> priority`: a uniform number in [0, 1) for each token, the same on any mesh."""

    def draw(ids: Leaf, mask: Leaf, step: Leaf) -> Leaf:
        _, group, length = mask.shape
        keys = request_keys(jnp.uint32(seed), jnp.int32(PRIORITY), step, ids, jnp.arange(group))
        return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (length,))))(keys)

    return compiled(draw, mesh)


def assemble_program(recipe: Recipe, mesh: Mesh, shardings: TrainState) -> Callable[..., tuple[Batch, States]]:
    """Returns `f(states, prompts, fields, temperature, keep_thresholds) -> (Batch, states)`."""
    return compiled(functools.partial(assemble, recipe), mesh, out_shardings=(None, shardings.method_state))


def update_program(
    recipe: Recipe,
    model: models.Model,
    mesh: Mesh,
    optimizer: optax.GradientTransformation,
    rate: optax.Schedule,
    *,
    minibatches: int,
    microbatches: int,
    shardings: TrainState,
) -> Callable[..., tuple[TrainState, dict[str, Leaf]]]:
    """Returns `f(state, batch, part) -> (state, metrics)`: one update on minibatch number `part`.

    The old state's buffers are reused: the caller must not read them again.
    """

    def run(state: TrainState, batch: Batch, part: Leaf) -> tuple[TrainState, dict[str, Leaf]]:
        if minibatches > 1:
            # Every minibatches-th prompt, so that a minibatch lies on all devices as the batch does.
            batch = take(batch, part, minibatches)
        return train_step(
            state, batch, recipe=recipe, model=model, optimizer=optimizer, rate=rate, microbatches=microbatches
        )

    # The new state lies as the old one did; else the second call would compile again.
    return compiled(run, mesh, donate_argnums=0, out_shardings=(shardings, None))
