"""Compiles the programs of a run side by side, before their first inputs exist."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok.sharding.mesh import BATCH_AXES
from jaxrl_tok.train.build import Build, sampling
from jaxrl_tok.types import Prompts


def compile_ahead(built: Build) -> list[Future]:
    """Starts compiling the main part's rollout, scoring and update in threads, and returns at once.

    A later call of a program waits for its compilation, or finds it done: jax keeps one by shapes, types and
    shardings. They are those of arrays that `shard_batch` has placed; a call with others compiles by itself, as
    one whose compilation failed here does, so what this does is never more than a gain of time.
    """
    stage, run, mesh = built.main, built.run, built.mesh
    if stage.recipe.source != "rollout":
        return []
    state, scalar = stage.template, jax.ShapeDtypeStruct((), jnp.int32)
    shape = (stage.prompts, run.rollout.max_prompt)
    whole, row = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    prompts = placed(Prompts(whole, row, row), mesh)
    asked = placed(jax.eval_shape(lambda: sampling(run, stage.prompts)), mesh)
    rolling = (state.params, prompts, asked, scalar, scalar)
    rollouts = placed(jax.eval_shape(built.rollout, *rolling)[0], mesh)
    scoring = (state.params, prompts, rollouts, built.filtered)
    scores = placed(jax.eval_shape(built.score, *scoring[:3], filtered=built.filtered), mesh)
    passes = stage.recipe.passes(stage.updates)
    grid = rollouts.mask.shape[:2]
    fields: dict[str, Any] = {
        "rewards": jax.ShapeDtypeStruct(grid, jnp.float32),
        "valid": jax.ShapeDtypeStruct(grid, jnp.bool_),
        "reward_parts": jax.ShapeDtypeStruct((*grid, len(run.reward)), jnp.float32),
        "tokens": rollouts.tokens,
        "mask": rollouts.mask,
        "truncated": rollouts.truncated,
        "prompt_ids": prompts.ids,
        "sampler_logprobs": rollouts.sampler_logprobs,
        "progress": jax.ShapeDtypeStruct((), jnp.float32),
        "step": scalar,
    }
    if passes["old"]:
        fields |= {"old_logprobs": scores.logprobs, "old_entropy": scores.entropy}
    if passes["reference"]:
        fields["ref_logprobs"] = scores.logprobs
    thresholds = rollouts.keep_thresholds if built.filtered else None
    batch = placed(jax.eval_shape(stage.assemble, prompts, fields, rollouts.temperature, thresholds), mesh)
    calls = [(stage.update, (state, batch, scalar)), (built.rollout, rolling)]
    calls += [(built.score, scoring)] if any(passes.values()) else []
    pool = ThreadPoolExecutor(len(calls), "compile")
    futures = [pool.submit(_compile, program, arguments) for program, arguments in calls]
    pool.shutdown(wait=False)
    return futures


def placed(tree: Any, mesh: Mesh) -> Any:
    """Returns shapes with the shardings that `shard_batch` gives to arrays of these shapes."""

    def place(x: Any) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(BATCH_AXES) if x.ndim else PartitionSpec()
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec), weak_type=x.weak_type)

    return jax.tree.map(place, tree)


def _compile(program: Any, arguments: tuple[Any, ...]) -> None:
    program.lower(*arguments).compile()
