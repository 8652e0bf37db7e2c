"""A completion depends on the weights, its prompt and its key, and on nothing else."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.rollouts.stop_strings import stop_table
from jaxrl_tok.samplers.adaptive_temperature import token_temperature
from jaxrl_tok.scores.normalized_entropy import EntropyScale
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.programs import Decoding, rollout_program
from jaxrl_tok.train.score import score
from jaxrl_tok.types import LeftOut
from tests import tiny
from tests.rollouts.running import sharp

PROMPTS, GROUP, SIZE, LIMIT, END = 8, 2, 6, 12, 2
# An untied head: a tied one at its initial weights mostly repeats the last token.
MODEL = tiny.model(tied=False)
WEIGHTS = sharp(MODEL)


@functools.cache
def program(slots, refill=True, end_ids=(END,)):
    @jax.jit
    def run(prompts, sampling, step):
        keys = request_keys(jnp.uint32(5), jnp.int32(0), step, prompts.ids, jnp.arange(sampling.limit.shape[1]))
        return generate(
            WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=LIMIT, end_ids=end_ids, slots=slots, refill=refill
        )

    return run


@functools.cache
def sampled(slots=16, refill=True, top_p=0.8):
    """Returns the rollouts of one batch, of different limits, and the number of decode steps."""
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, temperature=0.7, top_p=top_p)
    limits = np.random.default_rng(0).integers(1, LIMIT + 1, (PROMPTS, GROUP))
    sampling = dataclasses.replace(sampling, limit=jnp.asarray(limits, jnp.int32))
    rollouts, steps = program(slots, refill)(tiny.prompts(PROMPTS, SIZE), sampling, jnp.int32(1))
    return jax.device_get(rollouts), limits, int(steps)


def assert_same(a, b):
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(np.where(a.mask, a.tokens, 0), np.where(b.mask, b.tokens, 0))
    np.testing.assert_array_equal(a.truncated, b.truncated)
    for x, y in ((a.sampler_logprobs, b.sampler_logprobs), (a.keep_thresholds, b.keep_thresholds)):
        np.testing.assert_allclose(np.where(a.mask, x, 0), np.where(b.mask, y, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("slots", "refill"), [(1, True), (4, True), (4, False), (16, False)])
def test_slots_and_refilling_change_nothing(slots, refill):
    assert_same(sampled()[0], sampled(slots, refill)[0])


def test_every_request_ends_once_at_its_limit_or_an_end_token():
    rollouts, limits, _ = sampled()
    lengths = rollouts.mask.sum(-1)
    assert np.array_equal(rollouts.mask, np.arange(LIMIT) < lengths[..., None])  # one piece, from the start
    last = np.take_along_axis(rollouts.tokens, lengths[..., None] - 1, axis=-1)[..., 0]
    is_end = (rollouts.tokens == END) & rollouts.mask
    assert np.array_equal(is_end.sum(-1), last == END)  # an end token is the last one, and trained on
    assert np.array_equal(rollouts.truncated, last != END)
    assert np.array_equal(lengths[rollouts.truncated], limits[rollouts.truncated])
    assert (lengths >= 1).all() and (lengths <= limits).all()
    assert 0 < rollouts.truncated.sum() < rollouts.truncated.size  # the test sees both


def test_refilling_takes_fewer_steps_than_waiting_for_a_round():
    rollouts, _, steps = sampled(4, True)
    lengths = rollouts.mask.sum(-1).reshape(-1)
    rounds = sum(lengths[i : i + 4].max() for i in range(0, len(lengths), 4))
    assert sampled(4, False)[2] == rounds
    assert lengths.sum() / 4 <= steps < rounds
    assert sampled(1, True)[2] == lengths.sum()
    assert sampled(16, True)[2] == lengths.max()


def test_the_longest_are_admitted_first():
    """Of limits that come in a bad order, the long ones last: as many steps as the schedule by hand has."""
    limits = np.array([[1, 1], [1, 1], [1, 1], [1, 1], [2, 2], [3, 4], [3, 12], [5, 12]], np.int32)
    sampling = dataclasses.replace(tiny.sampling((PROMPTS, GROUP), LIMIT), limit=jnp.asarray(limits))

    def steps(slots, refill=True):
        return int(program(slots, refill, ())(tiny.prompts(PROMPTS, SIZE), sampling, jnp.int32(1))[1])

    # 51 tokens in 4 slots: 12, 12, 5 and 4 begin, and all others fit in beside. Rounds keep the order of the requests.
    assert steps(4) == 13 and steps(4, False) == 1 + 1 + 4 + 12


@pytest.mark.slow
def test_a_stop_string_ends_a_completion_with_the_token_that_completes_it():
    pieces = [bytes([65 + i]) for i in range(37)]
    asked, prompts = tiny.sampling((PROMPTS, GROUP), LIMIT), tiny.prompts(PROMPTS, SIZE)

    def run(stops, slots=4):
        keys = request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), prompts.ids, jnp.arange(GROUP))
        options = {"max_tokens": LIMIT, "end_ids": (END,), "slots": slots, "stops": stop_table(stops, pieces)}
        return jax.jit(lambda: generate(WEIGHTS, MODEL, prompts, keys, asked, **options)[0])()

    def texts(rollouts):
        rows, masks = (np.asarray(x).reshape(-1, LIMIT) for x in (rollouts.tokens, rollouts.mask))
        return [b"".join(pieces[t] for t in row[mask]).decode() for row, mask in zip(rows, masks, strict=True)]

    free = texts(run([]))
    longest = sorted(free, key=len)[-2:]
    stops = [longest[0][3:5], free[1][:1], longest[1][6:8]]
    found = run(stops)
    for text, whole, cut_off in zip(texts(found), free, np.asarray(found.truncated).reshape(-1), strict=True):
        ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
        assert text == whole[: min(ends, default=len(whole))]
        assert cut_off == (not ends and not whole.endswith(pieces[END].decode()))
    assert texts(found) != free
    assert_same(jax.device_get(found), jax.device_get(run(stops, slots=16)))


def test_each_request_has_its_own_temperature():
    """Beside one of another temperature a completion is the one that it is beside its like."""
    prompts, asked = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT)
    heat = np.array([[0.0, 1.5]] * PROMPTS, np.float32)

    def run(heat):
        found = program(16)(prompts, dataclasses.replace(asked, temperature=heat), jnp.int32(1))[0]
        return jax.device_get(found)

    mixed, others = run(jnp.asarray(heat)), (run(jnp.full_like(heat, t)) for t in (0.0, 1.5))
    for g, alike in enumerate(others):
        assert_same(*(jax.tree.map(lambda x, g=g: x[:, g], x) for x in (mixed, alike)))
    assert (mixed.sampler_logprobs[:, 0] == 0).all() and (mixed.sampler_logprobs[:, 1] < 0).any()


def test_several_end_tokens():
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT)
    rollouts, _ = jax.device_get(
        program(16, True, tuple(range(20)))(tiny.prompts(PROMPTS, SIZE), sampling, jnp.int32(1))
    )
    at = rollouts.mask.sum(-1)[..., None] - 1
    last = np.take_along_axis(rollouts.tokens, at, axis=-1)[..., 0]
    assert np.array_equal(last < 20, ~rollouts.truncated) and (last < 20).any()
    before = np.arange(LIMIT) < at
    assert (rollouts.tokens[before] >= 20).all()


def simple(prompts, step=1):
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT)
    return jax.device_get(program(16)(prompts, sampling, jnp.int32(step))[0])


def test_the_order_of_a_batch_changes_nothing():
    order = np.random.default_rng(1).permutation(PROMPTS)
    prompts = tiny.prompts(PROMPTS, SIZE)
    turned = jax.tree.map(lambda x: x[order], prompts)
    assert_same(jax.tree.map(lambda x: x[order], simple(prompts)), simple(turned))


def test_a_prompt_id_changes_only_its_own_completions():
    prompts = tiny.prompts(PROMPTS, SIZE)
    a, b = simple(prompts), simple(dataclasses.replace(prompts, ids=prompts.ids.at[3].set(1000)))
    others = np.arange(PROMPTS) != 3
    assert_same(jax.tree.map(lambda x: x[others], a), jax.tree.map(lambda x: x[others], b))
    assert (a.tokens[3] != b.tokens[3]).any(axis=-1).all()


def test_steps_differ_and_samples_differ():
    prompts = tiny.prompts(PROMPTS, SIZE)
    a, b = simple(prompts, 1), simple(prompts, 2)
    assert (a.tokens != b.tokens).any(axis=-1).mean() > 0.8
    assert (a.tokens[:, 0] != a.tokens[:, 1]).any(axis=-1).mean() > 0.8


def test_each_position_draws_anew():
    """Where all tokens are as likely at every position, a completion's tokens differ by their keys alone."""
    weights, prompts = WEIGHTS | {"head": jnp.zeros_like(WEIGHTS["head"])}, tiny.prompts(2, SIZE)
    keys = request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), prompts.ids, jnp.arange(GROUP))
    asked = tiny.sampling((2, GROUP), LIMIT)
    options = {"max_tokens": LIMIT, "end_ids": (), "slots": 4}
    rollouts, _ = jax.jit(lambda: generate(weights, MODEL, prompts, keys, asked, **options))()
    assert all(len({*row}) > LIMIT // 2 for row in np.asarray(rollouts.tokens).reshape(-1, LIMIT))


def test_keys_differ_by_each_part_and_by_nothing_else():
    def bits(seed=0, stream=0, step=0, ids=(4, 9), samples=(0, 1)):
        keys = request_keys(
            jnp.uint32(seed),
            jnp.int32(stream),
            jnp.int32(step),
            jnp.array(ids, jnp.int32),
            jnp.array(samples, jnp.int32),
        )
        return np.asarray(jax.random.key_data(keys))

    base = bits()
    assert len({tuple(key) for key in base.reshape(4, 2)}) == 4
    for other in (bits(seed=1), bits(stream=1), bits(step=1)):
        assert (other != base).any(axis=-1).all()
    np.testing.assert_array_equal(bits(ids=(9, 4), samples=(1, 0)), base[::-1, ::-1])
    assert (bits(seed=1, step=0) != bits(seed=0, step=1)).any()


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (1.0, 0.8), (0.7, 1.0), (0.7, 0.8)])
def test_the_trainer_gives_a_token_the_probability_it_was_drawn_with(temperature, top_p):
    prompts = tiny.prompts(PROMPTS, SIZE)
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, temperature, top_p=top_p)
    rollouts, _ = program(4)(prompts, sampling, jnp.int32(1))
    thresholds = rollouts.keep_thresholds if top_p < 1 else None
    scored = jax.jit(score, static_argnums=1)(
        WEIGHTS, MODEL, prompts, rollouts.tokens, rollouts.mask, rollouts.temperature, thresholds
    )
    away = np.where(rollouts.mask, scored.logprobs - rollouts.sampler_logprobs, 0)
    np.testing.assert_allclose(np.exp(away), 1, rtol=1e-4)
    if top_p < 1:  # and it would not without the kept set
        without = jax.jit(score, static_argnums=1)(
            WEIGHTS, MODEL, prompts, rollouts.tokens, rollouts.mask, rollouts.temperature
        )
        assert np.abs(np.where(rollouts.mask, without.logprobs - rollouts.sampler_logprobs, 0)).max() > 0.05


LEFT_OUT = LeftOut((5, 11, 30), (END, 8), 6)
ONE = tiny.model(tied=False, layers=1)
ONE_WEIGHTS = tiny.weights(ONE)
ONE_WEIGHTS["head"] = 2 * ONE_WEIGHTS["head"]
scored_once = jax.jit(score, static_argnums=1, static_argnames="left_out")


@functools.cache
def without(temperature, top_p, left=LEFT_OUT, stops=()):
    """Completions without some tokens, which would else be among the likely ones; for stops each token is an "a"."""
    table = stop_table(stops, [b"a"] * 37)
    prompts, asked = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, temperature, top_p=top_p)
    keys = request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), prompts.ids, jnp.arange(GROUP))
    options = {"max_tokens": LIMIT, "end_ids": (END, 8), "slots": 4, "left_out": left, "stops": table}
    return prompts, jax.jit(lambda: generate(ONE_WEIGHTS, ONE, prompts, keys, asked, **options)[0])()


def test_what_is_left_out_is_not_drawn_and_completions_have_their_minimum():
    rollouts = jax.device_get(without(0.7, 0.8)[1])
    assert not np.isin(rollouts.tokens[rollouts.mask], LEFT_OUT.ids).any()
    ends = np.isin(rollouts.tokens, LEFT_OUT.end_ids) & rollouts.mask
    assert not ends[..., :6].any() and ends[..., 6:].any()


@pytest.mark.parametrize(("temperature", "top_p"), [pytest.param(1.0, 1.0, marks=pytest.mark.slow), (0.7, 0.8)])
def test_the_trainer_knows_what_is_left_out(temperature, top_p):
    prompts, rollouts = without(temperature, top_p)
    thresholds = rollouts.keep_thresholds if top_p < 1 else None
    sampled = (rollouts.tokens, rollouts.mask, rollouts.temperature, thresholds)

    def away(left):
        scored = scored_once(ONE_WEIGHTS, ONE, prompts, *sampled, left_out=left)
        return np.abs(np.where(rollouts.mask, scored.logprobs - rollouts.sampler_logprobs, 0)).max()

    assert away(LEFT_OUT) < 1e-4
    assert away(LeftOut(LEFT_OUT.ids)) > 0.01
    if top_p == 1:
        assert min(away(None), away(LeftOut((), LEFT_OUT.end_ids, 6))) > 0.01


@pytest.mark.slow
def test_a_stop_string_counts_from_the_minimum_on():
    """A completion stops with the token that reaches the minimum, or that completes what began with it."""
    for stop, length in (("a", 4), ("aa", 5)):
        rollouts = without(1.0, 1.0, LeftOut((), (END, 8), 4), (stop,))[1]
        np.testing.assert_array_equal(np.asarray(rollouts.mask).sum(-1), length)


# Of entropies as this model has them, so that both sides are reached.
SCALE = EntropyScale(jnp.float32(1.0), jnp.float32(-0.5), jnp.float32(0.1))


@functools.cache
def tempered(strength, temperature=0.7, top_p=1.0, left=None):
    prompts, asked = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, temperature, top_p=top_p)
    keys = request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), prompts.ids, jnp.arange(GROUP))
    temper = None if strength is None else functools.partial(token_temperature, strength=strength)
    how = {"max_tokens": LIMIT, "end_ids": (END,), "slots": 4, "left_out": left, "temper": temper}
    return prompts, jax.jit(lambda scale: generate(ONE_WEIGHTS, ONE, prompts, keys, asked, scale=scale, **how)[0])(
        SCALE
    )


@pytest.mark.parametrize(("temperature", "top_p"), [pytest.param(0.7, 0.8, marks=pytest.mark.slow), (1.0, 1.0)])
def test_the_trainer_knows_the_temperature_of_each_token(temperature, top_p):
    left = LEFT_OUT if top_p < 1 else None
    prompts, rollouts = tempered(0.5, temperature, top_p, left)
    own = np.asarray(rollouts.temperature)[np.asarray(rollouts.mask)] / temperature
    assert own.min() >= 0.499 and own.max() <= 1.501 and own.std() > 0.05
    thresholds = rollouts.keep_thresholds if top_p < 1 else None
    sampled = (ONE_WEIGHTS, ONE, prompts, rollouts.tokens, rollouts.mask)

    def away(heat):
        scored = scored_once(*sampled, heat, thresholds, left_out=left)
        return np.abs(np.where(rollouts.mask, scored.logprobs - rollouts.sampler_logprobs, 0))

    mask = np.asarray(rollouts.mask)
    heat = token_temperature(rollouts.entropy, jnp.full_like(rollouts.entropy, temperature), SCALE, strength=0.5)
    np.testing.assert_allclose(np.asarray(rollouts.temperature)[mask], np.asarray(heat)[mask], rtol=1e-5)
    if top_p == 1:
        assert away(rollouts.temperature).max() < 1e-4
        return
    # At these temperatures tokens that are left out have up to 0.999 of the mass: what is left has so few digits.
    full, less = (scored_once(*sampled, rollouts.temperature, left_out=x).logprobs for x in (None, left))
    assert (away(rollouts.temperature) < 1e-4 + 3e-7 / np.exp(full - less)).all()
    assert away(jnp.full((PROMPTS, GROUP), temperature)).max() > 0.05
    # The entropies that the temperatures go by are the policy's own, whatever is left out.
    plain = scored_once(*sampled, jnp.ones((PROMPTS, GROUP)))
    np.testing.assert_allclose(np.where(mask, rollouts.entropy, 0), plain.entropy, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_strength_of_0_is_plain_sampling_to_the_bit():
    plain, none = (jax.device_get(tempered(strength)[1]) for strength in (0.0, None))
    assert none.entropy is None and none.temperature.shape == (PROMPTS, GROUP)
    for name in ("tokens", "mask", "truncated", "sampler_logprobs", "keep_thresholds"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(none, name))
    assert (plain.temperature[plain.mask] == np.float32(0.7)).all()
    assert (jax.device_get(tempered(0.5)[1]).tokens != none.tokens).any()


def test_greedy_completions_are_the_argmax_of_the_full_model():
    prompts = tiny.prompts(PROMPTS, SIZE)
    rollouts, _ = program(4)(prompts, tiny.sampling((PROMPTS, GROUP), LIMIT, temperature=0.0), jnp.int32(1))
    states = jax.jit(MODEL.forward)(WEIGHTS, prompts.tokens, prompts.lengths, rollouts.tokens)
    first = jnp.broadcast_to(states.prompt[:, None, -1:], (PROMPTS, GROUP, 1, MODEL.arch.dim))
    hidden = jnp.concatenate([first, states.completion[:, :, :-1]], axis=2)
    best = np.argmax(jnp.einsum("PGTD,VD->PGTV", hidden, MODEL.head(WEIGHTS)), axis=-1)
    np.testing.assert_array_equal(np.where(rollouts.mask, rollouts.tokens, 0), np.where(rollouts.mask, best, 0))


def test_one_device_and_four_give_the_same_tokens():
    prompts, sampling = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, 0.7, top_p=0.8)
    results = []
    for devices in (jax.devices()[:1], jax.devices()):
        mesh = make_mesh({"data": -1}, devices)
        run = rollout_program(MODEL, mesh, Decoding(seed=5, max_tokens=LIMIT, end_ids=(END,), slots=8))
        placed = (replicate(WEIGHTS, mesh), *shard_batch((prompts, sampling), mesh), jnp.int32(0), jnp.int32(1))
        results.append(jax.device_get(run(*placed).rollouts))
    assert_same(*results)
