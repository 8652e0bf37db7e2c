"""Trees that branch at surprising tokens: where, what is shared, which nodes there are, what they are worth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import tree_rl
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import CHECKS
from jaxrl_tok.rollouts.eptree import check, eptree
from jaxrl_tok.rollouts.extend import Engine, nothing_contains
from jaxrl_tok.rollouts.generate import generate, request_keys
from jaxrl_tok.scores import leaf_rewards
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import replicate, shard_batch
from jaxrl_tok.train.programs import method_program
from jaxrl_tok.train.score import score
from tests import tiny

SLOW = pytest.mark.slow
PROMPTS, SIZE, LIMIT, ENDS = 8, 5, 10, (0, 1, 2)
CHAINS, POSITIONS, ROUNDS, BRANCHES = 2, 2, 2, 2
EACH = 1 + POSITIONS * ROUNDS * BRANCHES
GROUP = CHAINS * EACH
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = tiny.weights(MODEL)
WEIGHTS["head"] = 2 * WEIGHTS["head"]
STOPS = np.isin(np.arange(37), (4, 11, 30))
HYPER = {"chains": CHAINS, "positions": POSITIONS, "rounds": ROUNDS, "branches": BRANCHES}


def contains(pattern):
    assert pattern.search("the Answer:") and not pattern.search("answ")
    return STOPS


def keys_of(prompts, group):
    return request_keys(jnp.uint32(5), jnp.int32(0), jnp.int32(1), prompts.ids, jnp.arange(group))


@functools.cache
def found(slots=500):
    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(WEIGHTS, MODEL, prompts, max_tokens=LIMIT, end_ids=ENDS, slots=slots, contains=contains)
        return eptree(engine, keys_of(prompts, GROUP), sampling, **HYPER)

    return jax.device_get(run(tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, 0.9)))


@functools.cache
def family():
    """Of each completion the one that it goes on from and the tokens that it keeps, by the places found with loops."""
    rollouts = found().rollouts
    lengths, logprobs, tokens = rollouts.mask.sum(-1), rollouts.sampler_logprobs, rollouts.tokens
    parent, start = np.full((PROMPTS, GROUP), -1), np.zeros((PROMPTS, GROUP), int)
    for p, c in np.ndindex(PROMPTS, CHAINS):
        members = [c * EACH]
        for _ in range(ROUNDS):
            places = []
            for g in members:
                for t in range(start[p, g] + (parent[p, g] >= 0), lengths[p, g]):
                    if not STOPS[tokens[p, g, start[p, g] : t]].any():
                        places.append((logprobs[p, g, t], g, t))
            places = sorted(places)[:POSITIONS]
            new = []
            for n in range(POSITIONS * BRANCHES):
                h = c * EACH + len(members) + n
                if n // BRANCHES < len(places):
                    _, parent[p, h], start[p, h] = places[n // BRANCHES]
                else:
                    assert lengths[p, h] == 0
                    start[p, h] = LIMIT
                new.append(h)
            members += new
    return parent, start


def owner(p, g, t):
    parent, start = family()
    while t < start[p, g]:
        g = parent[p, g]
    return g


def sharers(p, g, t):
    """The completions that have this token of the same one."""
    lengths = found().rollouts.mask[p].sum(-1)
    return frozenset(h for h in range(GROUP) if t < lengths[h] and owner(p, h, t) == owner(p, g, t))


@SLOW
def test_the_chains_are_the_independent_completions():
    @jax.jit
    def run(prompts, sampling):
        keys = keys_of(prompts, CHAINS)
        return generate(WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=LIMIT, end_ids=ENDS, slots=16)[0]

    plain = jax.device_get(run(tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, CHAINS), LIMIT, 0.9)))
    chains = jax.tree.map(lambda x: x[:, ::EACH], found().rollouts)
    np.testing.assert_array_equal(chains.mask, plain.mask)
    np.testing.assert_array_equal(*(np.where(x.mask, x.tokens, 0) for x in (chains, plain)))


@SLOW
def test_branches_go_on_from_the_most_surprising_tokens():
    sampled = found()
    rollouts, (parent, start) = sampled.rollouts, family()
    lengths, absent, differ, of_branches = rollouts.mask.sum(-1), 0, [], 0
    for p, g in np.ndindex(PROMPTS, GROUP):
        if lengths[p, g] == 0:
            absent += 1
            assert not rollouts.truncated[p, g]
            continue
        ended = rollouts.tokens[p, g, lengths[p, g] - 1] in ENDS
        assert ended != rollouts.truncated[p, g] and (ended or lengths[p, g] == LIMIT)
        if parent[p, g] >= 0:
            kept = start[p, g]
            assert lengths[p, g] > kept
            for name in ("tokens", "sampler_logprobs", "keep_thresholds"):
                x = getattr(rollouts, name)[p]
                np.testing.assert_array_equal(x[g, :kept], x[parent[p, g], :kept])
            differ.append((rollouts.tokens[p, g, kept:] != rollouts.tokens[p, parent[p, g], kept:]).any())
            of_branches += parent[p, parent[p, g]] >= 0
    assert 0 < absent < PROMPTS * GROUP / 2 and np.mean(differ) > 0.9 and of_branches > 10
    own = [lengths[p][lengths[p] > 0].sum() - np.where(lengths[p] > 0, start[p], 0).sum() for p in range(PROMPTS)]
    np.testing.assert_array_equal(sampled.tokens, own)


@SLOW
def test_nodes_by_who_shares_a_token():
    sampled = found()
    mask, ids = sampled.rollouts.mask, sampled.fields["node_ids"]
    several = 0
    for p in range(PROMPTS):
        parents, seen, alive = sampled.fields["node_parents"][p], {}, {0}
        for g in range(GROUP):
            assert (ids[p, g][~mask[p, g]] == -1).all()
            last = 0
            for t in range(mask[p, g].sum()):
                node, who = ids[p, g, t], sharers(p, g, t)
                assert seen.setdefault(who, node) == node
                assert sampled.fields["multiplicity"][p, g, t] == len(who)
                assert node == last or (parents[node] == last < node)
                last = node
                alive.add(node)
            several += len({*ids[p, g][mask[p, g]]}) > 2
        assert len(seen) == len(alive) - 1 and {*np.flatnonzero(parents != -2)} == alive and parents[0] == -1
    assert several > PROMPTS


@SLOW
def test_advantages_are_the_gain_over_root_and_parent():
    sampled = found()
    mask, ids, parents = (
        jnp.asarray(x) for x in (sampled.rollouts.mask, sampled.fields["node_ids"], sampled.fields["node_parents"])
    )
    rewards = np.random.default_rng(0).random(mask.shape[:2]).astype(np.float32)
    of_leaves = jax.jit(leaf_rewards)(jnp.asarray(rewards), ids, parents, mask)
    result = np.asarray(jax.jit(tree_rl)(ids, parents, of_leaves, mask, mask.any(-1)))
    for p in range(PROMPTS):
        exists = np.flatnonzero(np.asarray(mask[p]).any(-1))
        root = rewards[p][exists].mean()
        for g in exists:
            before, value = None, root
            for t in range(int(mask[p, g].sum())):
                who = sharers(p, g, t)
                if who != before:
                    above, value, before = value, rewards[p][[*who]].mean(), who
                expected = (2 * value - root - above) / np.sqrt(len(who))
                np.testing.assert_allclose(result[p, g, t], expected, atol=1e-5)


@SLOW
def test_the_trainer_gives_every_token_its_log_prob():
    rollouts = found().rollouts
    arrays = (jnp.asarray(x) for x in (rollouts.tokens, rollouts.mask, rollouts.temperature))
    scored = jax.jit(score, static_argnums=1)(WEIGHTS, MODEL, tiny.prompts(PROMPTS, SIZE), *arrays)
    mask = rollouts.mask
    np.testing.assert_allclose(np.asarray(scored.logprobs)[mask], rollouts.sampler_logprobs[mask], atol=2e-5)


@SLOW
def test_slots_change_nothing():
    a, b = found(), found(5)
    np.testing.assert_array_equal(a.rollouts.mask, b.rollouts.mask)
    np.testing.assert_array_equal(*(np.where(x.rollouts.mask, x.rollouts.tokens, 0) for x in (a, b)))
    jax.tree.map(np.testing.assert_array_equal, a.fields, b.fields)


@SLOW
def test_one_device_and_four_give_the_same():
    prompts, sampling = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, 0.9)
    mesh = make_mesh({"data": -1}, jax.devices())
    method = functools.partial(eptree, **HYPER)
    run = method_program(method, MODEL, mesh, seed=5, max_tokens=LIMIT, end_ids=ENDS, slots=400, contains=contains)
    placed = replicate(WEIGHTS, mesh), *shard_batch((prompts, sampling), mesh), jnp.int32(0)
    other, here = jax.device_get(run(*placed, jnp.int32(1))), found()
    np.testing.assert_array_equal(other.rollouts.mask, here.rollouts.mask)
    np.testing.assert_array_equal(*(np.where(x.rollouts.mask, x.rollouts.tokens, 0) for x in (other, here)))
    jax.tree.map(np.testing.assert_array_equal, other.fields, here.fields)


@pytest.mark.parametrize(
    ("group", "hyper", "words"),
    [
        (
            8,
            {},
            "chains = 6, positions = 2, rounds = 1, branches = 2: 30 leaves; expected as many as rollout.group = 8",
        ),
        (30, {"rounds": 0}, "rounds = 0: expected at least 1"),
        (6 * 131, {"positions": 65}, "positions = 65: expected at most rollout.max_tokens = 64"),
    ],
)
def test_what_does_not_fit_is_refused(group, hyper, words):
    with pytest.raises(ConfigError) as error:
        check(group, 64, nothing_contains, **hyper)
    assert words in str(error.value) and "\n" not in str(error.value)
    check(30, 64, nothing_contains)
    assert CHECKS["eptree"] is check
