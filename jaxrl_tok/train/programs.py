"""The compiled programs of a run, each with its shapes fixed: roll out, score, assemble, update."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec

from jaxrl_tok import models
from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.sharding.mesh import BATCH_AXES, batch_shards
from jaxrl_tok.train.assemble import States, assemble
from jaxrl_tok.train.compilation import compiled
from jaxrl_tok.train.recipe import Recipe
from jaxrl_tok.train.score import Scores, distances, score
from jaxrl_tok.train.step import train_step
from jaxrl_tok.types import Batch, Leaf, Prompts, Rollouts, Sampling, TrainState

# Training, evaluation and the tokens' priorities draw from different streams of keys.
TRAIN, EVAL, PRIORITY = 0, 1, 2


def rollout_program(
    model: models.Model, mesh: Mesh, *, seed: int, max_tokens: int, end_ids: tuple[int, ...], slots: int
) -> Callable[..., tuple[Rollouts, Leaf]]:
    """Returns `f(params, prompts, sampling, stream, step) -> (rollouts, decode steps)`.

    `slots` are shared evenly by the shards of the batch; 0 = one for every request.
    """
    shards = batch_shards(mesh)

    def sample(params: Any, prompts: Prompts, sampling: Sampling, stream: Leaf, step: Leaf) -> Any:
        group = sampling.limit.shape[1]
        keys = request_keys(jnp.uint32(seed), stream, step, prompts.ids, jnp.arange(group))
        local = prompts.ids.shape[0] * group
        rollouts, steps = generate(
            params, model, prompts, keys, sampling,
            max_tokens=max_tokens, end_ids=end_ids, slots=-(-slots // shards) if slots else local,
            axis_name=BATCH_AXES if shards > 1 else None,
        )  # fmt: skip
        return rollouts, steps[None]

    if shards == 1:
        return compiled(sample)
    rows, whole = PartitionSpec(BATCH_AXES), PartitionSpec()
    specs = {"in_specs": (whole, rows, rows, whole, whole), "out_specs": (rows, rows)}
    return compiled(jax.shard_map(sample, mesh=mesh, **specs))


def score_program(model: models.Model) -> Callable[..., Scores]:
    """Returns `f(params, prompts, rollouts, filtered, statistics) -> Scores`."""

    def run(
        params: Any, prompts: Prompts, rollouts: Rollouts, filtered: bool, statistics: tuple[str, ...] = ()
    ) -> Scores:
        thresholds = rollouts.keep_thresholds if filtered else None
        sampled = (rollouts.tokens, rollouts.mask, rollouts.temperature)
        return score(params, model, prompts, *sampled, thresholds, statistics=statistics)

    return compiled(run, static_argnames=("filtered", "statistics"))


def distances_program(model: models.Model) -> Callable[..., dict[str, Leaf]]:
    """Returns `f(params, ref_params, prompts, rollouts, kinds) -> distances by name`."""

    def run(
        params: Any, ref_params: Any, prompts: Prompts, rollouts: Rollouts, kinds: tuple[str, ...]
    ) -> dict[str, Leaf]:
        sampled = (rollouts.tokens, rollouts.mask, rollouts.temperature)
        return distances(params, ref_params, model, prompts, *sampled, kinds=kinds)

    return compiled(run, static_argnames="kinds")


def priority_program(seed: int) -> Callable[..., Leaf]:
    """Returns `f(ids, mask, step) -> priority`: a uniform number in [0, 1) for each token, the same on any mesh."""

    def draw(ids: Leaf, mask: Leaf, step: Leaf) -> Leaf:
        _, group, length = mask.shape
        keys = request_keys(jnp.uint32(seed), jnp.int32(PRIORITY), step, ids, jnp.arange(group))
        return jax.vmap(jax.vmap(lambda key: jax.random.uniform(key, (length,))))(keys)

    return compiled(draw)


def assemble_program(recipe: Recipe, shardings: TrainState) -> Callable[..., tuple[Batch, States]]:
    """Returns `f(states, prompts, fields, temperature, keep_thresholds) -> (Batch, states)`."""
    return compiled(functools.partial(assemble, recipe), out_shardings=(None, shardings.method_state))


def update_program(
    recipe: Recipe,
    model: models.Model,
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
            batch = jax.tree.map(lambda x: x if x.ndim == 0 else _take(x, part, minibatches), batch)
        return train_step(
            state, batch, recipe=recipe, model=model, optimizer=optimizer, rate=rate, microbatches=microbatches
        )

    # The new state lies as the old one did; else the second call would compile again.
    return compiled(run, donate_argnums=0, out_shardings=(shardings, None))


def _take(x: Leaf, part: Leaf, parts: int) -> Leaf:
    """Every parts-th prompt from `part` on, so that a minibatch lies on all devices as the batch does."""
    rows = x.reshape(x.shape[0] // parts, parts, *x.shape[1:])
    return jax.lax.dynamic_index_in_dim(rows, part, axis=1, keepdims=False)
