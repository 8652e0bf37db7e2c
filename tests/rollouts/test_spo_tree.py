"""Trees of completions: each leaf as if sampled alone, what leaves share the same to the last bit."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import spo_tree as advantages_of
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import check
from jaxrl_tok.rollouts.extend import Engine, nothing_contains
from jaxrl_tok.rollouts.generate import generate
from jaxrl_tok.rollouts.spo_tree import nodes as nodes_of
from jaxrl_tok.rollouts.spo_tree import spo_tree
from jaxrl_tok.scores import leaf_rewards
from jaxrl_tok.train.score import score
from jaxrl_tok.types import Prompts
from tests import tiny
from tests.rollouts.running import keys_of, on_all_devices, sampled, sharp
from tests.rollouts.toy import chi_square, toy

SLOW = pytest.mark.slow
PROMPTS, SIZE, LIMIT, ENDS, SEGMENT = 4, 5, 10, (0, 1, 2), 3
BRANCHES = (3, 2, 2)
GROUP = 12
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = sharp(MODEL)


@functools.cache
def grown(branches=BRANCHES, slots=48, top_p=0.9):
    method = functools.partial(spo_tree, branches=branches, segment_tokens=SEGMENT)
    asked = tiny.sampling((PROMPTS, int(np.prod(branches))), LIMIT, 0.9, top_p=top_p)
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": slots}
    return sampled(method, MODEL, WEIGHTS, tiny.prompts(PROMPTS, SIZE), asked, **how)


def assert_same(a, b):
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(np.where(a.mask, a.tokens, 0), np.where(b.mask, b.tokens, 0))
    np.testing.assert_array_equal(a.truncated, b.truncated)
    for x, y in ((a.sampler_logprobs, b.sampler_logprobs), (a.keep_thresholds, b.keep_thresholds)):
        np.testing.assert_allclose(np.where(a.mask, x, 0), np.where(b.mask, y, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("branches", [(GROUP, 1, 1), (GROUP,)])
@pytest.mark.slow
def test_with_one_branch_it_is_plain_sampling(branches):
    @jax.jit
    def plain(prompts, sampling):
        keys = keys_of(prompts, GROUP)
        return generate(WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=LIMIT, end_ids=ENDS, slots=48)[0]

    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, 0.9, top_p=0.9)
    assert_same(grown(branches).rollouts, jax.device_get(plain(tiny.prompts(PROMPTS, SIZE), sampling)))


@pytest.mark.slow
@pytest.mark.parametrize("slots", [5, pytest.param(1, marks=SLOW)])
def test_slots_change_nothing(slots):
    a, b = grown(), grown(slots=slots)
    assert_same(a.rollouts, b.rollouts)
    jax.tree.map(np.testing.assert_array_equal, a.fields, b.fields)
    np.testing.assert_array_equal(a.tokens, b.tokens)


@pytest.mark.slow
def test_one_device_and_four_give_the_same_tree():
    prompts, sampling = tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, 0.9, top_p=0.9)
    method = functools.partial(spo_tree, branches=BRANCHES, segment_tokens=SEGMENT)
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": 20}
    run, at_step = on_all_devices(method, MODEL, WEIGHTS, prompts, sampling, **how)
    found = at_step(1)
    assert_same(found.rollouts, grown().rollouts)
    jax.tree.map(np.testing.assert_array_equal, found.fields, grown().fields)
    at_step(2)
    assert run._cache_size() == 1  # another step, other ends of nodes: the same program


def paths():
    """The nodes on the way to each leaf, by the numbers of the branches."""
    for leaf in itertools.product(*map(range, BRANCHES)):
        yield leaf, [1 + leaf[0], 4 + leaf[0] * 2 + leaf[1], 10 + (leaf[0] * 2 + leaf[1]) * 2 + leaf[2]]


def test_a_tree_by_walking_it():
    """Which leaves there are, which nodes their tokens belong to, how many leaves share a node: with loops."""
    found = grown()
    mask, tokens, ids = found.rollouts.mask, found.rollouts.tokens, found.fields["node_ids"]
    lengths = mask.sum(-1)
    assert 0 < (lengths == 0).sum() < lengths.size / 2 and lengths.max() > 2 * SEGMENT  # the test sees all kinds
    for p in range(PROMPTS):
        parents = found.fields["node_parents"][p]
        assert parents[0] == -1 and parents.shape == (1 + 3 + 6 + 12,)
        sharers, alive = {}, {0}
        for g, (leaf, nodes) in enumerate(paths()):
            depth = 0 if lengths[p, g] == 0 else min((lengths[p, g] - 1) // SEGMENT, 2)
            if lengths[p, g] == 0:  # the node that ended has one leaf, its first
                first = next(h for h in range(g, -1, -1) if lengths[p, h])
                assert (lengths[p, first] <= 2 * SEGMENT) and not found.rollouts.truncated[p, first]
                assert list(paths())[first][0][:1] == leaf[:1] or lengths[p, first] <= SEGMENT
                continue
            expected = [nodes[min(t // SEGMENT, 2)] for t in range(lengths[p, g])]
            assert list(ids[p, g][mask[p, g]]) == expected and (ids[p, g][~mask[p, g]] == -1).all()
            for node in {*expected}:
                sharers[node] = sharers.get(node, 0) + 1
            alive |= {*expected}
            ends = depth < 2 or not found.rollouts.truncated[p, g]
            assert ends == (tokens[p, g, lengths[p, g] - 1] in ENDS)
            for child, parent in zip(nodes[: depth + 1], [0, *nodes], strict=False):
                assert parents[child] == parent
        assert {n for n in range(22) if parents[n] != -2} == alive
        for g in range(GROUP):
            got = found.fields["multiplicity"][p, g][mask[p, g]]
            assert list(got) == [sharers[n] for n in ids[p, g][mask[p, g]]]
        assert found.tokens[p] == round(sum(1 / m for m in found.fields["multiplicity"][p][mask[p]]))


def test_nodes_that_are_known_before_are_those_that_are_sampled():
    expected = nodes_of(GROUP, LIMIT, branches=BRANCHES, segment_tokens=SEGMENT)
    found = grown()
    assert expected.shape == found.rollouts.mask.shape[1:]
    whole = np.broadcast_to(expected, found.rollouts.mask.shape)
    np.testing.assert_array_equal(found.fields["node_ids"], np.where(found.rollouts.mask, whole, -1))
    assert len(np.unique(expected)) == 3 + 6 + 12


def test_leaves_of_a_node_share_its_tokens_and_siblings_differ():
    found = grown()
    ids, tokens, logprobs = found.fields["node_ids"], found.rollouts.tokens, found.rollouts.sampler_logprobs
    differ = 0
    for p, (g, h) in itertools.product(range(PROMPTS), itertools.combinations(range(GROUP), 2)):
        shared = (ids[p, g] == ids[p, h]) & (ids[p, g] >= 0)
        np.testing.assert_array_equal(tokens[p, g][shared], tokens[p, h][shared])
        np.testing.assert_array_equal(logprobs[p, g][shared], logprobs[p, h][shared])
        differ += (tokens[p, g] != tokens[p, h]).any()
    assert differ > 0.9 * PROMPTS * GROUP * (GROUP - 1) / 2


def test_the_trainer_gives_every_token_its_log_prob():
    found = grown().rollouts
    arrays = (jnp.asarray(x) for x in (found.tokens, found.mask, found.temperature, found.keep_thresholds))
    scored = jax.jit(score, static_argnums=1)(WEIGHTS, MODEL, tiny.prompts(PROMPTS, SIZE), *arrays)
    np.testing.assert_allclose(np.asarray(scored.logprobs)[found.mask], found.sampler_logprobs[found.mask], atol=1e-5)


def test_advantages_of_siblings_add_up_to_nothing_and_of_a_path_to_its_gain():
    found = grown()
    mask, ids, parents = found.rollouts.mask, found.fields["node_ids"], found.fields["node_parents"]
    rewards = jnp.asarray(np.random.default_rng(0).random(mask.shape[:2]), jnp.float32)
    arrays = [jnp.asarray(x) for x in (ids, parents, mask)]
    of_leaves = leaf_rewards(rewards, *arrays)
    result = np.asarray(advantages_of(*arrays[:2], of_leaves, arrays[2], jnp.asarray(mask.any(-1))))
    for p in range(PROMPTS):
        edge = {n: a for n, a in zip(ids[p][mask[p]], result[p][mask[p]], strict=True)}
        for parent in range(22):
            children = [edge[n] for n in range(22) if parents[p, n] == parent]
            assert abs(sum(children)) < 1e-5 and (not children or len(children) > 1)
        gains = {
            g: float(rewards[p, g]) - sum(edge[n] for n in {*ids[p, g][mask[p, g]]})
            for g in np.flatnonzero(mask[p].any(-1))
        }
        np.testing.assert_allclose([*gains.values()], gains[0], atol=1e-5)  # the value of the root


@pytest.mark.slow
def test_each_leaf_is_distributed_as_an_independent_completion():
    """One leaf of each tree, so that the draws are independent; a leaf that does not exist is that of its node."""
    model, weights, (tokens, lengths), probabilities = toy()
    count, branches = 4000, (2, 2, 2)
    prompts = Prompts(tokens.repeat(count, 0), lengths.repeat(count), jnp.arange(count, dtype=jnp.int32))

    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(weights, model, prompts, max_tokens=3, end_ids=(0,), slots=count * 8)
        return spo_tree(engine, keys_of(prompts, 8), sampling, branches=branches, segment_tokens=1).rollouts

    found = jax.device_get(run(prompts, tiny.sampling((count, 8), 3)))
    assert (found.mask.sum(-1) == 0).any()
    for leaf in (0, 3, 7):
        counts = {}
        for p in range(count):
            g = next(h for h in (leaf, leaf // 2 * 2, leaf // 4 * 4) if found.mask[p, h].any())
            text = tuple(found.tokens[p, g][found.mask[p, g]].tolist())
            counts[text] = counts.get(text, 0) + 1
        assert chi_square(counts, probabilities, count) < 42.6  # of 14 degrees of freedom, once in 10 000


@pytest.mark.parametrize(
    ("group", "tokens", "hyper", "words"),
    [
        (8, 64, {}, "branches = [6, 6, 6]: has 216 leaves; expected as many as rollout.group = 8"),
        (216, 200, {}, "segment_tokens = 100: expected 1 to 99"),
        (4, 200, {"branches": [2, 2], "segment_tokens": 0}, "segment_tokens = 0: expected 1 to 199"),
        (0, 200, {"branches": [2, 0]}, "branches = [2, 0]: expected a list of numbers of at least 1"),
    ],
)
def test_a_tree_that_does_not_fit_is_refused(group, tokens, hyper, words):
    with pytest.raises(ConfigError) as error:
        check("spo_tree", group, tokens, nothing_contains, **hyper)
    assert words in str(error.value) and "\n" not in str(error.value)
    check("spo_tree", 216, 201, nothing_contains)
    check("spo_tree", 5, 1, nothing_contains, branches=[5])
