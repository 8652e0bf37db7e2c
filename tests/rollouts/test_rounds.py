"""Places of a batch that are sampled at different times have what they would have had together."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.rollouts.dars import dars
from jaxrl_tok.rollouts.extend import Engine
from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.rollouts.rounds import requested
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.programs import method_program
from tests import tiny

PROMPTS, GROUP, SIZE, LIMIT, ENDS = 4, 5, 5, 8, (0, 1, 2)
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = tiny.weights(MODEL)
WEIGHTS["head"] = 2 * WEIGHTS["head"]


def keys_of(prompts, group, step=1):
    return request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(step), prompts.ids, jnp.arange(group))


def sampling(wanted):
    asked = tiny.sampling(wanted.shape, LIMIT, 0.9, top_p=0.9)
    return dataclasses.replace(asked, limit=jnp.where(wanted, asked.limit, 0))


@functools.cache
def program(slots):
    @jax.jit
    def run(prompts, asked):
        engine = Engine.read(WEIGHTS, MODEL, prompts, max_tokens=LIMIT, end_ids=ENDS, slots=slots)
        return requested(engine, keys_of(prompts, GROUP), asked)

    return run


@functools.cache
def plain(group):
    """Independent completions, all at once."""

    @jax.jit
    def run(prompts):
        keys = keys_of(prompts, group)
        asked = tiny.sampling((PROMPTS, group), LIMIT, 0.9, top_p=0.9)
        return generate(WEIGHTS, MODEL, prompts, keys, asked, max_tokens=LIMIT, end_ids=ENDS, slots=100)[0]

    return jax.device_get(run(tiny.prompts(PROMPTS, SIZE)))


def found(wanted, slots=3):
    return jax.device_get(program(slots)(tiny.prompts(PROMPTS, SIZE), sampling(wanted)))


def check(sampled, wanted, whole):
    """The wanted ones are those of the whole, and the others are not there."""
    rollouts = sampled.rollouts
    np.testing.assert_array_equal(rollouts.mask, whole.mask & wanted[..., None])
    there = rollouts.mask
    np.testing.assert_array_equal(np.where(there, rollouts.tokens, 0), np.where(there, whole.tokens, 0))
    np.testing.assert_array_equal(rollouts.truncated, whole.truncated & wanted)
    for name in ("sampler_logprobs", "keep_thresholds"):
        x, y = getattr(rollouts, name), getattr(whole, name)
        np.testing.assert_allclose(np.where(there, x, 0), np.where(there, y, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(sampled.tokens, there.sum((1, 2)))


def test_what_is_asked_for_is_what_a_whole_batch_would_have():
    """Few, none and all of a group, in fewer slots than there are requests; and the ones after the first."""
    wanted = np.random.default_rng(0).random((PROMPTS, GROUP)) < 0.5
    wanted[0], wanted[1], wanted[2] = False, True, [True, False, False, False, False]
    whole = plain(GROUP)
    assert 0 < whole.truncated.sum() < whole.truncated.size
    for ask in (wanted, ~wanted, np.zeros_like(wanted)):
        check(found(ask), ask, whole)
    assert program(3)._cache_size() == 1


@pytest.mark.slow
@pytest.mark.parametrize("slots", [1, 100])
def test_slots_change_nothing(slots):
    wanted = np.random.default_rng(1).random((PROMPTS, GROUP)) < 0.6
    check(found(wanted, slots), wanted, plain(GROUP))


@pytest.mark.slow
def test_a_second_phase_goes_on_where_the_first_one_ended():
    """On four devices, a prompt each: samples 0 and 1, then some of 2 to 4, are the first of a group of more."""
    mesh = make_mesh({"data": -1}, jax.devices())
    method = functools.partial(dars, first=2)
    run = method_program(method, MODEL, mesh, seed=5, max_tokens=LIMIT, end_ids=ENDS, slots=20)
    place = np.arange(GROUP)[None]
    more = np.array([[0], [3], [1], [2]])
    whole = jax.tree.map(lambda x: x[:, :GROUP], plain(GROUP + 2))
    for wanted in (np.repeat(place < 2, PROMPTS, axis=0), (place >= 2) & (place < 2 + more)):
        placed = shard_batch((tiny.prompts(PROMPTS, SIZE), sampling(wanted)), mesh)
        sampled = jax.device_get(run(replicate(WEIGHTS, mesh), *placed, jnp.int32(0), jnp.int32(1)))
        check(sampled, wanted, whole)
    assert run._cache_size() == 1  # whatever the second phase samples
