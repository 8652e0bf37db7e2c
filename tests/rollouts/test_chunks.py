"""Sampled in calls of a few steps each, requests have the tokens that they have in one call."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.rollouts.generate import generate
from jaxrl_tok.rollouts.stop_strings import stop_table
from jaxrl_tok.samplers.adaptive_temperature import token_temperature
from jaxrl_tok.scores.normalized_entropy import EntropyScale
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.programs import Decoding, chunk_programs, rollout_program
from jaxrl_tok.types import LeftOut
from tests import tiny
from tests.rollouts.running import keys_of, sharp

PROMPTS, GROUP, SIZE, LIMIT, END = 8, 2, 6, 12, 2
MODEL = tiny.model(tied=False)
WEIGHTS = sharp(MODEL)
SLOW = pytest.mark.slow


def arguments(mesh):
    limits = np.random.default_rng(0).integers(1, LIMIT + 1, (PROMPTS, GROUP))
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, temperature=0.7, top_p=0.8)
    sampling = dataclasses.replace(sampling, limit=jnp.asarray(limits, jnp.int32))
    placed = shard_batch((tiny.prompts(PROMPTS, SIZE), sampling), mesh)
    return replicate(WEIGHTS, mesh), *placed, jnp.int32(0), jnp.int32(1)


def settings(slots, stops):
    return {"max_tokens": LIMIT, "end_ids": (END,), "slots": slots, "stops": STOPS if stops else None}


STOPS = stop_table(["ab", "c"], [bytes([97 + i % 5]) for i in range(MODEL.vocab)])


@functools.cache
def whole(slots=8, stops=False):
    """What one call samples, and in how many steps."""
    weights, prompts, sampling, *_ = arguments(make_mesh({"data": -1}, jax.devices()[:1]))
    how = settings(slots, stops)
    run = jax.jit(lambda *batch: generate(weights, MODEL, batch[0], keys_of(batch[0], GROUP), batch[1], **how))
    return jax.device_get(run(prompts, sampling))


def in_chunks(programs, mesh, *scale):
    """Returns the rollouts, and what the host saw after each call, one call too many."""
    params, prompts, *others = arguments(mesh)
    read, state = programs.first(params, prompts, *others, *scale)
    seen = []
    while not seen or seen[-1].busy.any():
        state, progress = programs.chunk(prompts, read, state)
        seen.append(jax.device_get(progress))
    state, _ = programs.chunk(prompts, read, state)
    return jax.device_get(programs.result(read, state)), seen


def compiled(caplog, function, *arguments):
    """Returns what a function does, and how many programs are compiled for it."""
    caplog.clear()
    with jax.log_compiles():
        found = function(*arguments)
    return found, sum("Compiling" in record.getMessage() for record in caplog.records)


def assert_same(a, b):
    """Whole numbers are equal. Reals need not be: each processor has XLA fuse two programs as it pleases."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if x.dtype == np.float32:
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-5)
        else:
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    ("steps", "slots"), [(3, 4), pytest.param(1, 4, marks=SLOW), pytest.param(100, 16, marks=SLOW)]
)
def test_chunks_of_any_size_sample_what_one_call_does(steps, slots, caplog):
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    programs = chunk_programs(MODEL, mesh, Decoding(seed=5, **settings(slots, False)), steps)
    (rollouts, seen), count = compiled(caplog, in_chunks, programs, mesh)
    expected, taken = whole(slots)
    assert_same(rollouts, expected)
    assert len(seen) == -(-int(taken) // steps)
    assert count >= 3 and compiled(caplog, in_chunks, programs, mesh)[1] == 0


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_temperatures_of_their_own_in_chunks(devices):
    """The scale comes with the first call, and the others have it."""
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    how = settings(8, False) | {"temper": functools.partial(token_temperature, strength=0.5), "left_out": LeftOut((5,))}
    scale = replicate(EntropyScale(*jnp.array([1.0, -0.5, 0.1])), mesh)
    how = Decoding(seed=5, **how)
    rollouts, _ = in_chunks(chunk_programs(MODEL, mesh, how, 3), mesh, scale)
    expected = jax.device_get(rollout_program(MODEL, mesh, how)(*arguments(mesh), scale).rollouts)
    assert_same(rollouts, expected)
    assert rollouts.temperature.shape == rollouts.tokens.shape and rollouts.temperature[rollouts.mask].std() > 0.05


@pytest.mark.slow
def test_what_has_finished_is_whole_and_stays_so():
    mesh = make_mesh({"data": -1}, jax.devices()[:1])
    rollouts, seen = in_chunks(chunk_programs(MODEL, mesh, Decoding(seed=5, **settings(4, False)), 3), mesh)
    lengths, tokens = rollouts.mask.sum(-1).reshape(-1), rollouts.tokens.reshape(-1, LIMIT)
    counts = [look.finished.sum() for look in seen]
    assert any(0 < count < PROMPTS * GROUP for count in counts)
    assert counts[-1] == PROMPTS * GROUP and sorted(counts) == counts
    for look in seen:
        there = look.finished[0]
        np.testing.assert_array_equal(look.lengths[0][there], lengths[there])
        mask = there[:, None] & (np.arange(LIMIT) < lengths[:, None])
        np.testing.assert_array_equal(np.where(mask, look.tokens[0], 0), np.where(mask, tokens, 0))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 4])
def test_one_device_and_four_sample_the_same_in_chunks_with_stop_strings(devices, caplog):
    mesh = make_mesh({"data": -1}, jax.devices()[:devices])
    programs = chunk_programs(MODEL, mesh, Decoding(seed=5, **settings(8, True)), 2)
    rollouts, seen = in_chunks(programs, mesh)
    expected, _ = whole(8, True)
    np.testing.assert_array_equal(rollouts.mask, expected.mask)
    np.testing.assert_array_equal(
        np.where(rollouts.mask, rollouts.tokens, 0), np.where(expected.mask, expected.tokens, 0)
    )
    assert seen[0].busy.shape == (devices,) and (~expected.truncated).any()
    assert compiled(caplog, in_chunks, programs, mesh)[1] == 0
