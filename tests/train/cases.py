"""A recipe and a training batch on the tiny model."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.config.load import load_recipe
from jaxrl_tok.train.assemble import assemble
from jaxrl_tok.train.recipe import build_recipe
from jaxrl_tok.types import Batch
from tests import tiny

PROMPTS, GROUP, SIZE = 8, 4, 6


def recipe(name="grpo"):
    return build_recipe(load_recipe(name))


def fields(seed=0, vocab=37):
    """Arrays of the assemble stage: ragged completions, some samples without a reward."""
    rng = np.random.default_rng(seed)
    shape = (PROMPTS, GROUP, SIZE)
    lengths = rng.integers(1, SIZE + 1, shape[:2])
    valid = rng.random(shape[:2]) > 0.1
    rewards = rng.random(shape[:2]) < 0.5
    rewards[0] = True  # a group without variance
    return {
        "tokens": jnp.asarray(rng.integers(3, vocab, shape), jnp.int32),
        "mask": jnp.asarray(np.arange(SIZE) < lengths[..., None]),
        "valid": jnp.asarray(valid),
        "truncated": jnp.asarray(lengths == SIZE),
        "rewards": jnp.asarray(rewards, jnp.float32),
        "sampler_logprobs": jnp.asarray(-rng.random(shape), jnp.float32),
        "old_logprobs": jnp.asarray(-3.6 + 0.3 * rng.normal(size=shape), jnp.float32),
        "old_entropy": jnp.asarray(rng.random(shape), jnp.float32),
        "ref_logprobs": jnp.asarray(-3.6 + 0.3 * rng.normal(size=shape), jnp.float32),
        "sampler_entropy": jnp.asarray(np.random.default_rng(seed + 100).random(shape), jnp.float32),
        "progress": jnp.float32(0.5),
        "step": jnp.int32(3),
    }


def batch(name="grpo", seed=0, temperature=0.9) -> Batch:
    have = fields(seed)
    built = recipe(name)
    wanted = built.assemble_reads | built.step_reads | {"tokens", "mask", "valid", "sampler_logprobs"}
    have = {k: v for k, v in have.items() if k in wanted}
    states = {path: method.init() for path, method in built.stateful.items() if path == "sampler"}
    heat = jnp.full((PROMPTS, GROUP), temperature, jnp.float32)
    return jax.jit(lambda f: assemble(built, states, tiny.prompts(PROMPTS, 5), f, heat, None)[0])(have)
