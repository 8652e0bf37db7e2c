"""A step of a tiny run on a mesh, with all that can differ from the same step on one device."""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from jaxrl_tok.config.load import load_run
from jaxrl_tok.io.tokenizer import characters
from jaxrl_tok.sharding.mesh import BATCH_AXES
from jaxrl_tok.sharding.place import shard_batch, to_host
from jaxrl_tok.train import programs
from jaxrl_tok.train.build import Build, build, init_state
from jaxrl_tok.train.parts import sampling
from jaxrl_tok.types import Batch, Prompts, TrainState

RUN = Path(__file__).parents[1] / "train" / "run.toml"
# Two microbatches of eight prompts; every axis that a rule splits divides by two, most by eight.
SETS = (
    # No advantage has another sign than the rest, or the loss would be a small difference of large sums.
    "recipe=dapo", "advantage={method='reinforce'}",
    "warmup.steps=0", "eval.prompts=0", "rollout.prompts=16", "rollout.group=2", "train.microbatches=2",
    "model.layers=2", "model.dim=32", "model.heads=4", "model.kv_heads=2", "model.ffw=48", "model.vocab=32",
    "model.tied=false",
)  # fmt: skip
MODELS = {
    "dense": (),
    "moe": (
        "model.experts=4",
        "model.experts_per_token=2",
        "loss.balance={method='load_balance', reduction='row_mean', weight=0.1}",
    ),
}
# The presets, and what none of them has: three ways to split one tensor, and a mesh over several slices.
MESHES = {preset: (f"mesh.preset={preset}",) for preset in ("single", "data", "fsdp", "fsdp_tensor", "fsdp_sequence")}
MESHES |= {
    "moe": ("mesh.preset=moe",),
    "expert_sequence_tensor": ("mesh.data=1", "mesh.expert=2", "mesh.sequence=2", "mesh.tensor=2"),
    "slices": ("mesh.preset=fsdp_tensor", "mesh.slices=2"),
}
RATE = 0.5
# Momentum without decay: after one step of SGD its state is the gradient itself.
SGD = optax.chain(optax.trace(decay=0.0), optax.scale(-RATE))


def built(devices: int, *sets: str) -> Build:
    """Returns the programs of the tiny run on so many devices."""
    run = load_run(RUN, (*SETS, *sets))
    return build(run, characters(run.tokenizer.alphabet), devices=jax.devices()[:devices])


def update(on: Build) -> Any:
    """Returns the update program with plain SGD."""
    shardings = TrainState(jax.tree.map(lambda x: x.sharding, on.main.template.params), None, None, None, {})
    return programs.update_program(
        on.main.recipe, on.model, on.mesh, SGD, optax.constant_schedule(RATE),
        minibatches=1, microbatches=on.run.train.microbatches, shardings=shardings,
    )  # fmt: skip


def hlo_of_update(on: Build) -> str:
    """Returns the update as it was compiled, each device's part of it, without running anything."""
    run = on.run.rollout
    rows = NamedSharding(on.mesh, PartitionSpec(BATCH_AXES))

    def array(dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct((run.prompts, *shape), dtype, sharding=rows)

    reals, flags = (array(kind, run.group, run.max_tokens) for kind in (jnp.float32, bool))
    prompts = Prompts(array(jnp.int32, run.max_prompt), array(jnp.int32), array(jnp.int32))
    tokens = array(jnp.int32, run.group, run.max_tokens)
    fields = {"tokens": tokens, "mask": flags, "valid": array(bool, run.group), "advantages": reals}
    fields |= {"old_logprobs": reals, "sampler_logprobs": reals, "token_weights": reals}
    batch = Batch(prompts, fields, array(jnp.float32, run.group), None)
    params = on.main.template.params
    state = TrainState(params, jax.eval_shape(SGD.init, params), on.main.template.updates, None, {})
    part = jax.ShapeDtypeStruct((), jnp.int32)
    return update(on).lower(state, batch, part).compile().as_text()


def arguments(on: Build) -> tuple[Any, Any, Any]:
    """Returns the prompts, their sampling and the first parameters, on the mesh."""
    count, size = on.run.rollout.prompts, on.run.rollout.max_prompt
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, size + 1, count).astype(np.int32)
    tokens = rng.integers(3, 17, (count, size)).astype(np.int32)
    tokens = np.where(np.arange(size) < (size - lengths)[:, None], 0, tokens)
    placed = shard_batch((Prompts(tokens, lengths, np.arange(count, dtype=np.int32)), sampling(on.run, count)), on.mesh)
    return *placed, init_state(on).params


def step(devices: int, *sets: str) -> dict[str, dict[str, np.ndarray]]:
    """Rolls out, scores, assembles and updates once; returns every number that came out, by kind and name."""
    on = built(devices, *sets)
    prompts, asked, params = arguments(on)
    rollouts = on.rollout(params, prompts, asked, np.int32(programs.TRAIN), np.int32(1)).rollouts
    scores = on.score(params, prompts, rollouts, None, False)
    host = to_host(rollouts)
    rewards = (host.tokens.sum(-1) % 3 == 0).astype(np.float32)
    fields = shard_batch({"rewards": rewards, "valid": np.ones(rewards.shape, bool)}, on.mesh)
    fields |= {"tokens": rollouts.tokens, "mask": rollouts.mask, "truncated": rollouts.truncated}
    # As if the policy had moved since, so that ratios differ and some are clipped.
    away = shard_batch(0.3 * np.sin(host.tokens).astype(np.float32), on.mesh)
    fields |= {"old_logprobs": scores.logprobs + away, "sampler_logprobs": rollouts.sampler_logprobs}
    batch, _ = on.main.assemble({}, prompts, fields, rollouts.temperature, None)
    before = named(params)
    state = TrainState(params, SGD.init(params), jnp.int32(0), None, {})
    after, metrics = update(on)(state, batch, np.int32(0))
    return {
        "tokens": {"tokens": host.tokens, "mask": host.mask},
        "first parameters": before,
        "logprobs": {"sampler": np.where(host.mask, host.sampler_logprobs, 0), "score": np.asarray(scores.logprobs)},
        "loss": named(metrics),
        "gradients": named(after.opt_state[0].trace),
        "parameters": named(after.params),
    }


def named(tree: Any) -> dict[str, np.ndarray]:
    """Returns the leaves on the host, by path."""
    return {jax.tree_util.keystr(k): np.asarray(x) for k, x in jax.tree_util.tree_leaves_with_path(to_host(tree))}


@functools.cache
def alone(model: str) -> dict[str, dict[str, np.ndarray]]:
    """The step on one device."""
    return step(1, *MODELS[model], "mesh.preset=single")


def deviations(devices: int, mesh: str, model: str) -> dict[str, float]:
    """Returns by how much a step on a mesh differs from that on one device: the most of each kind."""
    got, expected = step(devices, *MODELS[model], *MESHES[mesh]), alone(model)
    assert all(got[kind].keys() == expected[kind].keys() for kind in expected)

    def most(kind, distance):
        return max(float(distance(got[kind][name], x)) for name, x in expected[kind].items())

    return {
        "tokens": most("tokens", lambda a, b: np.sum(a != b)),
        "first parameters": most("first parameters", lambda a, b: np.sum(a != b)),
        "logprobs": most("logprobs", lambda a, b: np.max(np.abs(a - b))),
        "loss": abs(float(got["loss"]["['loss']"] / expected["loss"]["['loss']"] - 1)),
        "gradients": most("gradients", lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)),
        "parameters": most("parameters", lambda a, b: np.max(np.abs(a - b))),
        # For the reader of a failure, and to see that there is something to agree on.
        "size of the loss": abs(float(expected["loss"]["['loss']"])),
        "least gradient": min(float(np.linalg.norm(x)) for x in expected["gradients"].values()),
    }


if __name__ == "__main__":
    found = {}
    for case in sys.argv[2:]:
        found[case] = deviations(len(jax.devices()), *case.split("/"))
        print(case, found[case], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found))
