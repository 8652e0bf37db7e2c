"""How the tests of rollouts run a method: on one device and on all, with the same keys."""

import jax
import jax.numpy as jnp

from jaxrl_tok.rollouts.extend import Engine
from jaxrl_tok.rollouts.generate import request_keys
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.programs import Decoding, rollout_program
from tests import tiny


def sharp(model, factor=2):
    """Weights whose head is so many times the initial one, so that tokens differ in their probabilities."""
    weights = tiny.weights(model)
    return weights | {"head": factor * weights["head"]}


def keys_of(prompts, group, step=1):
    return request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(step), prompts.ids, jnp.arange(group))


def sampled(method, model, weights, prompts, asked, **how):
    """What a method samples, on one device; `how` are fields of the engine."""

    @jax.jit
    def run(prompts, asked):
        engine = Engine.read(weights, model, prompts, **how)
        return method(engine, keys_of(prompts, asked.limit.shape[1]), asked)

    return jax.device_get(run(prompts, asked))


def on_all_devices(method, model, weights, prompts, asked, **how):
    """The program of a method on a mesh of all devices, and what it samples at a step."""
    mesh = make_mesh({"data": -1}, jax.devices())
    program = rollout_program(model, mesh, Decoding(seed=5, **how), method)
    placed = replicate(weights, mesh), *shard_batch((prompts, asked), mesh), jnp.int32(0)
    return program, lambda step: jax.device_get(program(*placed, jnp.int32(step)))
