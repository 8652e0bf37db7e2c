"""A fork goes on as its parent did, wherever it is cut, and each branch of it as if it had been sampled alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models import Rope
from jaxrl_tok.rollouts.extend import Engine, branch_keys, extend, fork, from_prompts
from jaxrl_tok.rollouts.generate import request_keys
from jaxrl_tok.rollouts.stop_strings import stop_table
from jaxrl_tok.train.score import score
from tests import tiny

PROMPTS, SIZE, LIMIT, ENDS = 8, 5, 10, (0, 1, 2)
SLOW = pytest.mark.slow
VARIANTS = {
    "plain": {"tied": False, "layers": 1},
    # A window that is shorter than what a fork sees of its parent, and prompts beyond it.
    "window": {
        "tied": False,
        "window": 4,
        "sliding": (True, False),
        "attention_cap": 2.0,
        "local_rope": Rope(100.0),
    },
    "scan": {"tied": False, "scan_decoding": True},
    "stops": {"tied": False, "layers": 1},
}
# Tokens are letters of three, so that a string is often complete, or only begun, where a completion is cut.
STOPS = {"stops": stop_table(["abc", "bb"], [b"abc"[i % 3 : i % 3 + 1] for i in range(37)])}


MODELS = {name: tiny.model(**changes) for name, changes in VARIANTS.items()}
WEIGHTS = {name: tiny.weights(model) for name, model in MODELS.items()}
WEIGHTS = {name: weights | {"head": 2 * weights["head"]} for name, weights in WEIGHTS.items()}


def engine_of(name, slots, prompts):
    return Engine.read(
        WEIGHTS[name], MODELS[name], prompts, max_tokens=LIMIT, end_ids=ENDS, slots=slots, stops=STOPS.get(name)
    )


def base(engine):
    """One request a prompt, of different limits."""
    ids = engine.prompts.ids
    keys = request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), ids, jnp.arange(1))[:, 0]
    sampling = tiny.sampling(ids.shape, LIMIT, 0.9)
    sampling = dataclasses.replace(sampling, limit=jnp.array([10, 10, 9, 10, 8, 4, 10, 2], jnp.int32))
    return from_prompts(engine, jnp.arange(PROMPTS, dtype=jnp.int32), keys, sampling)


def every_place():
    """Each request cut at every place, in three branches."""
    row, kept, branch = np.meshgrid(np.arange(PROMPTS), np.arange(LIMIT), np.arange(3), indexing="ij")
    return [jnp.asarray(x.reshape(-1), jnp.int32) for x in (row, kept, branch)]


@functools.cache
def forked(name="plain", slots=PROMPTS * LIMIT * 3, refill=True):
    """The parents, and their branches from every place where they had not ended."""

    @jax.jit
    def run(prompts):
        engine = engine_of(name, slots, prompts)
        requests = base(engine)
        parents = extend(engine, requests, LIMIT, keep=True)
        row, kept, branch = every_place()
        below = fork(requests, parents, row, kept, branch, kept < parents.lengths[row])
        children = extend(engine, below, LIMIT, refill=refill)
        return [without_cache(x) for x in (parents, children)]

    return jax.device_get(run(tiny.prompts(PROMPTS, SIZE)))


def without_cache(done):
    return done._replace(cache=None)


def tails(parents):
    """What each parent sampled behind every place: tokens, log-probs, whether they are there."""
    row, kept, branch = map(np.asarray, every_place())
    at = kept[:, None] + np.arange(LIMIT)[None]
    there = at < parents.lengths[row][:, None]
    at = np.minimum(at, LIMIT - 1)
    return row, kept, branch, parents.tokens[row[:, None], at], parents.logprobs[row[:, None], at], there


@pytest.mark.parametrize("name", [*(pytest.param(x, marks=SLOW) for x in ("plain", "scan", "stops")), "window"])
def test_the_first_branch_samples_what_its_parent_has(name):
    parents, children = forked(name)
    _, kept, branch, tokens, logprobs, there = tails(parents)
    first = (branch == 0) & there[:, 0]
    by_end = np.isin(np.take_along_axis(parents.tokens, parents.lengths[:, None] - 1, axis=1)[:, 0], ENDS)
    assert (parents.ended & ~by_end).any() == (name in STOPS)
    assert first.sum() > 30 and (children.lengths[first] > 1).any() and (kept[first] > 4).any()
    np.testing.assert_array_equal(children.lengths[first], there.sum(-1)[first])
    np.testing.assert_array_equal(children.tokens[first][there[first]], tokens[first][there[first]])
    # The same sums in another order.
    np.testing.assert_allclose(children.logprobs[first][there[first]], logprobs[first][there[first]], atol=2e-5)
    np.testing.assert_array_equal(children.ended[first], parents.ended[np.asarray(every_place()[0])][first])


@pytest.mark.slow
def test_branches_differ_from_their_parent_and_from_each_other():
    _, children = forked()
    tokens = children.tokens[:, :3].reshape(-1, 3, 3)  # of one place, by branch
    long = (children.lengths.reshape(-1, 3) >= 3).all(-1)
    assert long.sum() > 20
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (tokens[long, a] != tokens[long, b]).any(-1).mean() > 0.8


@pytest.mark.slow
def test_what_is_not_wanted_is_not_sampled():
    parents, children = forked("plain", 7, True)
    _, _, _, _, _, there = tails(parents)
    absent = ~there[:, 0]
    assert absent.any() and (children.lengths[absent] == 0).all() and (children.lengths[~absent] > 0).all()
    assert not children.ended[absent].any()
    # 7 slots at work nearly all the time: absent requests take none.
    assert children.steps < children.lengths.sum() / 7 + LIMIT


@pytest.mark.parametrize(("slots", "refill"), [(7, True), (7, False), (1, True)])
@pytest.mark.slow
def test_slots_and_refilling_change_nothing(slots, refill):
    _, many = forked()
    _, few = forked("plain", slots, refill)
    np.testing.assert_array_equal(many.lengths, few.lengths)
    np.testing.assert_array_equal(many.tokens, few.tokens)
    np.testing.assert_allclose(many.logprobs, few.logprobs, atol=2e-5)


@pytest.mark.parametrize("name", [pytest.param(x, marks=SLOW) for x in ("plain", "window")])
def test_a_fork_of_a_fork_goes_on_too(name):
    """Cut after 2 tokens and after 3 more: the first branches are one completion, sampled in three phases."""

    @jax.jit
    def run(prompts):
        engine = engine_of(name, PROMPTS, prompts)
        requests = base(engine)
        whole = extend(engine, requests, LIMIT)
        row, zero = jnp.arange(PROMPTS, dtype=jnp.int32), jnp.zeros(PROMPTS, jnp.int32)
        found = []
        for size in (2, 3, LIMIT - 5):
            limit = requests.sampling.limit
            short = dataclasses.replace(requests.sampling, limit=jnp.minimum(limit, size))
            done = extend(engine, dataclasses.replace(requests, sampling=short), size, keep=True)
            found.append(without_cache(done))
            going = (done.lengths == size) & ~done.ended & (limit > size)
            requests = fork(requests, done, row, jnp.full_like(row, size), zero, going)
        return without_cache(whole), found

    whole, parts = jax.device_get(run(tiny.prompts(PROMPTS, SIZE)))
    tokens, logprobs = (np.concatenate([getattr(x, key) for x in parts], 1) for key in ("tokens", "logprobs"))
    np.testing.assert_array_equal(sum(x.lengths for x in parts), whole.lengths)
    assert (whole.lengths > 5).sum() > 1 and (parts[2].lengths == 0).any()
    there = np.arange(LIMIT) < whole.lengths[:, None]
    np.testing.assert_array_equal(tokens[there], whole.tokens[there])
    np.testing.assert_allclose(logprobs[there], whole.logprobs[there], atol=2e-5)


def test_the_trainer_gives_every_branch_its_log_probs():
    parents, children = forked()
    row, kept, _, _, _, there = tails(parents)
    prompts = jax.tree.map(lambda x: x[row], tiny.prompts(PROMPTS, SIZE))
    tokens = np.zeros((len(row), 1, LIMIT), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i in np.flatnonzero(there[:, 0]):
        length = children.lengths[i]
        tokens[i, 0, : kept[i]] = parents.tokens[row[i], : kept[i]]
        tokens[i, 0, kept[i] : kept[i] + length] = children.tokens[i, :length]
        mask[i, 0, kept[i] : kept[i] + length] = True
    heat = jnp.full((len(row), 1), 0.9, jnp.float32)
    scored = jax.jit(score, static_argnums=1)(
        WEIGHTS["plain"], MODELS["plain"], prompts, jnp.asarray(tokens), jnp.asarray(mask), heat
    )
    got = np.concatenate([c[:n] for c, n in zip(children.logprobs, children.lengths, strict=True)])
    np.testing.assert_allclose(np.asarray(scored.logprobs)[mask], got, atol=1e-5)


def test_keys_of_branches_are_all_different_and_no_tokens_key():
    key = jax.random.split(jax.random.key(0), 1)
    keys = jnp.broadcast_to(key, (40,))
    position, branch = (jnp.asarray(x, jnp.int32) for x in np.divmod(np.arange(40), 5))
    bits = np.asarray(jax.random.key_data(branch_keys(keys, position, branch)))
    assert (bits[branch == 0] == np.asarray(jax.random.key_data(key))).all()
    tokens = np.asarray(jax.random.key_data(jax.vmap(jax.random.fold_in, (None, 0))(key[0], jnp.arange(64))))
    assert len({*map(tuple, bits[np.asarray(branch) > 0]), *map(tuple, tokens)}) == 32 + 64
    # Nor are they made of the key of a token, whose bits have been drawn from.
    fold = jax.vmap(jax.random.fold_in)
    of_tokens = np.asarray(jax.random.key_data(fold(fold(keys, position), branch)))
    assert (bits != of_tokens).any(-1)[np.asarray(branch) > 0].all()


def test_entropies_are_the_scoring_passes():
    @jax.jit
    def run(prompts):
        engine = engine_of("plain", 4, prompts)
        return without_cache(extend(engine, base(engine), LIMIT, entropy=True))

    prompts = tiny.prompts(PROMPTS, SIZE)
    done = jax.device_get(run(prompts))
    mask = np.arange(LIMIT) < done.lengths[:, None]
    arrays = (jnp.asarray(done.tokens)[:, None], jnp.asarray(mask)[:, None], jnp.full((PROMPTS, 1), 0.9, jnp.float32))
    scored = jax.jit(score, static_argnums=1)(WEIGHTS["plain"], MODELS["plain"], prompts, *arrays)
    np.testing.assert_allclose(done.entropies[mask], np.asarray(scored.entropy)[:, 0][mask], atol=2e-5)
