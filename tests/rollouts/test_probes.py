"""Rollouts from inside of completions: where they start, what they are drawn from, what they are worth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.rollouts.extend import Engine
from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.rollouts.probes import positions, probed, thinned
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.programs import method_program
from jaxrl_tok.train.score import score
from jaxrl_tok.types import Prompts
from tests import tiny
from tests.rollouts.toy import chi_square, toy

PROMPTS, GROUP, SIZE, LIMIT, ENDS = 4, 3, 5, 8, (0, 1, 2)
SAMPLES, SEGMENTS = 2, 3
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = tiny.weights(MODEL)
WEIGHTS["head"] = 2 * WEIGHTS["head"]


def every_other(rollouts):
    """Steps of two tokens, up to four of them."""
    return jnp.broadcast_to(jnp.arange(rollouts.tokens.shape[2]) % 2 == 0, rollouts.tokens.shape)


def keys_of(prompts, group, step=1):
    return request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(step), prompts.ids, jnp.arange(group))


@functools.cache
def found(slots=200):
    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(WEIGHTS, MODEL, prompts, max_tokens=LIMIT, end_ids=ENDS, slots=slots)
        keys = keys_of(prompts, GROUP)
        plain = generate(WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=LIMIT, end_ids=ENDS, slots=slots)[0]
        return plain, probed(engine, keys, sampling, every_other, samples=SAMPLES, segments=SEGMENTS)

    return jax.device_get(run(tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT)))


@pytest.mark.slow
def test_the_completions_are_the_independent_ones():
    plain, sampled = found()
    np.testing.assert_array_equal(plain.mask, sampled.rollouts.mask)
    np.testing.assert_array_equal(plain.tokens, sampled.rollouts.tokens)


def test_states_are_the_starts_of_segments_and_the_prompts_is_probed_once():
    _, sampled = found()
    cuts, lengths = sampled.probes.cuts, sampled.probes.lengths
    own = sampled.rollouts.mask.sum(-1)
    assert (own < 5).any() and (own > 6).any()  # fewer segments than there may be, and more
    for p, g in np.ndindex(PROMPTS, GROUP):
        starts = list(range(0, own[p, g], 2))
        kept = [starts[i] for i in (0, 2, 3)] if len(starts) == 4 else starts
        assert list(cuts[p, g]) == kept + [-1] * (SEGMENTS - len(kept))
        ids = [sum(c <= t for c in kept) - 1 for t in range(own[p, g])]
        assert list(sampled.fields["segment_ids"][p, g]) == ids + [-1] * (LIMIT - own[p, g])
        wanted = (cuts[p, g] > 0) | ((cuts[p, g] == 0) & (g == 0))
        np.testing.assert_array_equal(lengths[p, g] > 0, np.broadcast_to(wanted[:, None], (SEGMENTS, SAMPLES)))
        assert (lengths[p, g] <= LIMIT - np.maximum(cuts[p, g], 0)[:, None]).all()
    np.testing.assert_array_equal(sampled.tokens, own.sum(1) + lengths.sum((1, 2, 3)))


def whole_texts(sampled):
    """Each probe behind what it goes on from: `[P, N, T]` tokens, and which of them the probe has sampled."""
    probes, own = sampled.probes, sampled.rollouts.tokens
    tokens = np.zeros((PROMPTS, GROUP * SEGMENTS * SAMPLES, LIMIT), np.int32)
    new = np.zeros(tokens.shape, bool)
    for p, g, m, k in np.argwhere(probes.lengths > 0):
        cut, length = probes.cuts[p, g, m], probes.lengths[p, g, m, k]
        n = (g * SEGMENTS + m) * SAMPLES + k
        tokens[p, n, :cut] = own[p, g, :cut]
        tokens[p, n, cut : cut + length] = probes.tokens[p, g, m, k, :length]
        new[p, n, cut : cut + length] = True
    return tokens, new


def test_a_probe_is_as_likely_to_draw_as_the_trainer_says():
    """It ends at an end token or the limit; no probe of a state is the other, nor the completion again."""
    _, sampled = found()
    tokens, new = whole_texts(sampled)
    last = np.where(new, np.arange(LIMIT), -1).max(-1)
    sampled_at = new.any(-1)
    ends = np.isin(np.take_along_axis(tokens, np.maximum(last, 0)[..., None], -1)[..., 0], ENDS)
    assert (ends | (last == LIMIT - 1))[sampled_at].all()
    earlier = new & (np.arange(LIMIT) < last[..., None])
    assert not np.isin(tokens[earlier], ENDS).any()
    model_scores = jax.jit(score, static_argnums=1)(
        WEIGHTS, MODEL, tiny.prompts(PROMPTS, SIZE), jnp.asarray(tokens), jnp.asarray(new), jnp.ones(new.shape[:2])
    )
    # Of what is drawn from the policy itself, -logp is its entropy on average: within four standard errors.
    gap = np.asarray(-model_scores.logprobs - model_scores.entropy)[new]
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(gap.size)
    pairs = tokens.reshape(PROMPTS, GROUP, SEGMENTS, SAMPLES, LIMIT)
    long = (sampled.probes.lengths >= 3).all(-1)
    assert (pairs[..., 0, :] != pairs[..., 1, :]).any(-1)[long].mean() > 0.9
    again = (pairs == sampled.rollouts.tokens[:, :, None, None]).all(-1)
    assert again[long].mean() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("slots", [7])
def test_slots_change_nothing(slots):
    (_, a), (_, b) = found(), found(slots)
    np.testing.assert_array_equal(a.probes.lengths, b.probes.lengths)
    np.testing.assert_array_equal(a.probes.tokens, b.probes.tokens)


@pytest.mark.slow
def test_one_device_and_four_give_the_same_probes():
    prompts, sampling = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT)
    method = functools.partial(probed, starts=every_other, samples=SAMPLES, segments=SEGMENTS)
    mesh = make_mesh({"data": -1}, jax.devices())
    run = method_program(method, MODEL, mesh, seed=5, max_tokens=LIMIT, end_ids=ENDS, slots=40)
    placed = replicate(WEIGHTS, mesh), *shard_batch((prompts, sampling), mesh), jnp.int32(0)
    sampled = jax.device_get(run(*placed, jnp.int32(1)))
    jax.tree.map(np.testing.assert_array_equal, sampled.probes, found()[1].probes)
    jax.tree.map(np.testing.assert_array_equal, sampled.fields, found()[1].fields)
    run(*placed, jnp.int32(2))
    assert run._cache_size() == 1  # another step, other states: the same program


@pytest.mark.slow
def test_probes_are_distributed_as_independent_completions_behind_the_same_token():
    """One probe a completion, from the state after its first token where that is not the end."""
    model, weights, (tokens, lengths), probabilities = toy()
    count = 4000
    prompts = Prompts(tokens.repeat(count, 0), lengths.repeat(count), jnp.arange(count, dtype=jnp.int32))

    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(weights, model, prompts, max_tokens=3, end_ids=(0,), slots=count)
        second = lambda rollouts: jnp.broadcast_to(jnp.arange(3) == 1, rollouts.tokens.shape)  # noqa: E731
        return probed(engine, keys_of(prompts, 1), sampling, second, samples=1, segments=1)

    sampled = jax.device_get(run(prompts, tiny.sampling((count, 1), 3)))
    there = sampled.probes.cuts[:, 0, 0] == 1
    np.testing.assert_array_equal(there, sampled.rollouts.mask[:, 0, 1])
    counts = {}
    for p in np.flatnonzero(there):
        behind = sampled.probes.tokens[p, 0, 0, 0, : sampled.probes.lengths[p, 0, 0, 0]]
        text = (int(sampled.rollouts.tokens[p, 0, 0]), *behind.tolist())
        counts[text] = counts.get(text, 0) + 1
    left = 1 - probabilities[0,]
    given = {text: p / left for text, p in probabilities.items() if text != (0,)}
    assert chi_square(counts, given, there.sum()) < 40.9  # of 13 degrees of freedom, once in 10 000


@pytest.mark.parametrize("seed", range(3))
def test_thinned_marks_are_spread_evenly_and_the_first_stays(seed):
    starts = np.random.default_rng(seed).random((3, 4, 12)) < [[[0.2]], [[0.5]], [[0.9]]]
    kept = np.asarray(thinned(jnp.asarray(starts), 4))
    at = np.asarray(positions(jnp.asarray(kept), 4))
    for p, g in np.ndindex(3, 4):
        marks = np.flatnonzero(starts[p, g])
        n = len(marks)
        expected = [m for i, m in enumerate(marks) if i == 0 or i * 4 // n > (i - 1) * 4 // n] if n > 4 else [*marks]
        assert len(expected) == min(n, 4)
        assert list(np.flatnonzero(kept[p, g])) == expected
        assert list(at[p, g]) == expected + [-1] * (4 - len(expected))
