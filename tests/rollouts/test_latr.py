"""Lookahead trees: when they branch, what branches share, when they are cut back, how they go on."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import check
from jaxrl_tok.rollouts import latr as module
from jaxrl_tok.rollouts.extend import Engine, from_prompts, nothing_contains
from jaxrl_tok.rollouts.generate import generate
from jaxrl_tok.rollouts.latr import latr, new_branches
from jaxrl_tok.train.score import score
from tests import tiny
from tests.rollouts.running import keys_of, on_all_devices, sharp
from tests.rollouts.test_similarity import distance

SLOW = pytest.mark.slow
PROMPTS, GROUP, WAYS, SIZE, LIMIT, ENDS = 8, 6, 4, 5, 12, (0,)
VOCAB = 9  # so few that branches meet again
MODEL = tiny.model(tied=False, layers=1, vocab=VOCAB)
WEIGHTS = sharp(MODEL, 6)
EVERY = {"absolute": 0.0, "relative": 1.0, "steps": (), "symbols": "", "eta": WAYS / GROUP}
NEVER = {"absolute": 1.0, "steps": (), "symbols": "", "eta": WAYS / GROUP}
# Three tokens apart, and then as good as equal: goes again.
PRUNED = {"absolute": 0.02, "relative": 0.9, "steps": (2, 3), "edit": 0.7, "symbols": "", "eta": WAYS / GROUP}


def engine_of(prompts, model=MODEL, weights=WEIGHTS, contains=nothing_contains):
    return Engine.read(weights, model, prompts, max_tokens=LIMIT, end_ids=ENDS, slots=7, contains=contains)


def run(hyper, temperature=0.9, model=MODEL, weights=WEIGHTS, contains=nothing_contains):
    @jax.jit
    def sampled(prompts, sampling):
        return latr(engine_of(prompts, model, weights, contains), keys_of(prompts, GROUP), sampling, **hyper)

    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, temperature)
    return jax.device_get(sampled(tiny.prompts(PROMPTS, SIZE, VOCAB), sampling))


@jax.jit
def independent(prompts, sampling):
    keys = keys_of(prompts, GROUP)
    return generate(WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=LIMIT, end_ids=ENDS, slots=7)[0]


@functools.cache
def plain(temperature=0.9):
    sampling = tiny.sampling((PROMPTS, GROUP), LIMIT, temperature)
    return jax.device_get(independent(tiny.prompts(PROMPTS, SIZE, VOCAB), sampling))


def trees(hyper, lookahead=LIMIT):
    """The lookahead alone."""
    options = {"edit": 0.4, "suffix": 1.0, "rouge": 1.0, "symbols": "", "fill": 0.98, "decay": 0.05, "relative": 0.15}
    options |= {k: v for k, v in hyper.items() if k != "eta"}
    rules = module._Rules(**options)

    @jax.jit
    def grown(prompts, sampling):
        engine, rows = engine_of(prompts), jnp.arange(PROMPTS * WAYS, dtype=jnp.int32)
        requests = from_prompts(engine, rows // WAYS, keys_of(prompts, WAYS).reshape(-1), sampling)
        return module._grown(engine, requests, WAYS, lookahead, rules)._replace(cache=None)

    return jax.device_get(grown(tiny.prompts(PROMPTS, SIZE, VOCAB), tiny.sampling((PROMPTS * WAYS,), LIMIT, 0.9)))


def texts(rollouts, p):
    return [tuple(t[m].tolist()) for t, m in zip(rollouts.tokens[p], rollouts.mask[p], strict=True)]


@SLOW
def test_thresholds_that_nothing_passes_give_a_greedy_beginning_and_plain_samples():
    found, greedy = run(NEVER).rollouts, plain(0.0)
    for p in range(PROMPTS):
        assert texts(found, p)[0] == texts(greedy, p)[0]
        assert texts(found, p)[1:] == texts(plain(), p)[1:]
    np.testing.assert_array_equal(found.truncated[:, 1:], plain().truncated[:, 1:])
    np.testing.assert_array_equal(found.truncated[:, 0], greedy.truncated[:, 0])
    assert any(texts(greedy, p)[0] != texts(plain(), p)[0] for p in range(PROMPTS))


@SLOW
def test_without_thresholds_the_branches_double_until_there_is_no_place():
    grown = trees(EVERY)
    exists, ended, birth, lengths = (
        x.reshape(PROMPTS, WAYS) for x in (grown.exists, grown.ended, grown.birth, grown.lengths)
    )
    alone = ~ended.any(1)
    assert alone.any()
    for size, expected in ((0, 1), (1, 2), (2, 4)):
        there = exists & ((birth < size) | (np.arange(WAYS) == 0))
        assert (there.sum(1)[alone] == expected).all()
    # A tree that is full is left when its last branches, of the second token, have another one.
    assert (lengths[alone] == 3).all()


def walked(p, hyper, spared=()):
    """One prompt's tree with lists and the whole model: the branches that there are at the end, as tokens."""
    prompts = tiny.prompts(PROMPTS, SIZE, VOCAB)
    one = jax.tree.map(lambda x: x[p : p + 1], prompts)
    rows = [{"ids": [], "birth": 0, "parent": None}]
    steps = hyper["steps"]
    for t in range(LIMIT):
        free = WAYS - len(rows)
        made = []
        for row in rows:
            if row["ids"] and row["ids"][-1] in ENDS:
                continue
            probabilities = next_probabilities(one, row["ids"])
            first, second = np.argsort(-probabilities, kind="stable")[:2]
            near = probabilities[first] - probabilities[second] < hyper["relative"]
            if probabilities[second] > hyper["absolute"] and near and len(made) < free:
                made.append({"ids": [*row["ids"], int(second)], "birth": t, "parent": row})
            row["ids"] = [*row["ids"], int(first)]
        rows += made
        gone = []
        for row in rows:
            size = t + 1 - row["birth"]
            if row["parent"] is None or size not in steps:
                continue
            a, b = row["ids"][row["birth"] :], row["parent"]["ids"][row["birth"] :]
            if len(a) < size or len(b) < size or {*a, *b} & {*ENDS} or b[0] in spared:
                continue
            if t + 1 < LIMIT and distance(a, b) / size < hyper["edit"]:
                gone.append(row)
        while any(row["parent"] in gone and row not in gone for row in rows):
            gone += [row for row in rows if row["parent"] in gone and row not in gone]
        rows = [row for row in rows if not any(row is x for x in gone)]
    return rows


def next_probabilities(prompt, ids):
    tokens = np.zeros((1, 1, LIMIT), np.int32)
    tokens[0, 0, : len(ids)] = ids
    return np.asarray(whole_model(prompt, jnp.asarray(tokens)))[len(ids)]


@jax.jit
def whole_model(prompt, tokens):
    found = MODEL.forward(WEIGHTS, prompt.tokens, prompt.lengths, tokens)
    states = jnp.concatenate([found.prompt[0, -1:], found.completion[0, 0]])
    return jax.nn.softmax(states @ WEIGHTS["head"].T, axis=-1)


@pytest.mark.parametrize("spared", [False, pytest.param(True, marks=SLOW)])
def test_a_tree_by_growing_it_with_lists(spared):
    """Branches, capacity, pruning with descendants; `fill` 2 keeps a tree growing to the end."""
    even = np.arange(VOCAB) % 2 == 0
    hyper = PRUNED | ({"symbols": "+"} if spared else {})

    @jax.jit
    def grown(prompts, sampling):
        engine = engine_of(prompts, contains=lambda _: even)
        rows = jnp.arange(PROMPTS * WAYS, dtype=jnp.int32)
        requests = from_prompts(engine, rows // WAYS, keys_of(prompts, WAYS).reshape(-1), sampling)
        options = {"suffix": 1.0, "rouge": 1.0, "fill": 2.0, "decay": 0.0}
        options |= {k: v for k, v in hyper.items() if k != "eta"}
        return module._grown(engine, requests, WAYS, LIMIT, module._Rules(**options))._replace(cache=None)

    state = jax.device_get(grown(tiny.prompts(PROMPTS, SIZE, VOCAB), tiny.sampling((PROMPTS * WAYS,), LIMIT, 0.9)))
    reused = 0
    for p in range(PROMPTS):
        rows = [r for r in range(p * WAYS, (p + 1) * WAYS) if state.exists[r]]
        ours = sorted(tuple(state.tokens[r, : state.lengths[r]].tolist()) for r in rows)
        theirs = walked(p, hyper, spared=np.flatnonzero(even) if spared else ())
        assert ours == sorted(tuple(row["ids"]) for row in theirs)
        reused += int(state.sampled[p]) > sum(len(row["ids"]) - row["birth"] for row in theirs)
    assert reused > (0 if spared else 2)  # branches were taken back


@SLOW
def test_branches_share_the_beginning_of_their_parent_and_part_there():
    found = trees(PRUNED | {"edit": 0.0})
    count = 0
    for r in np.flatnonzero(found.exists & (found.parent >= 0)):
        parent, birth = r // WAYS * WAYS + found.parent[r], found.birth[r]
        np.testing.assert_array_equal(found.tokens[r, :birth], found.tokens[parent, :birth])
        np.testing.assert_array_equal(found.logprobs[r, :birth], found.logprobs[parent, :birth])
        assert found.tokens[r, birth] != found.tokens[parent, birth] and found.above[r, found.parent[r]]
        count += birth > 0
    assert count > 5


def test_what_came_of_a_branch_goes_with_it():
    """Of 0 <- 1 <- 2 and 0 <- 3, 1 goes: 2 too. A place that is free names no one."""
    above = np.zeros((8, 4), bool)
    above[1, 0] = above[2, 0] = above[2, 1] = above[3, 0] = True
    above[4 + 2, 1] = above[4 + 1, 0] = True
    exists = np.array([True] * 4 + [True, True, False, False])
    state = module._Tree(*[None] * len(module._Tree._fields))._replace(
        above=jnp.asarray(above), exists=jnp.asarray(exists), live=jnp.asarray(exists)
    )
    gone = jnp.arange(8) == 1
    left = module._without(state, gone)
    assert np.flatnonzero(left.exists).tolist() == [0, 3, 4, 5] == np.flatnonzero(left.live).tolist()


def test_the_oldest_branches_get_the_free_places():
    wants, exists, birth = [[True, True, True, False]], [[True, True, True, False]], [[4, 0, 4, 0]]
    source, new = new_branches(jnp.asarray(wants), jnp.asarray(exists), jnp.asarray(birth, jnp.int32))
    assert source.tolist() == [[0, 1, 2, 1]] and new.tolist() == [[False, False, False, True]]


@functools.cache
def mixed():
    """Trees of up to five tokens, pruned, and what goes on from them."""
    return run(PRUNED | {"lookahead": 5})


def test_the_trainer_gives_every_token_its_log_prob():
    found = mixed().rollouts
    arrays = (jnp.asarray(x) for x in (found.tokens, found.mask, found.temperature, found.keep_thresholds))
    scored = jax.jit(score, static_argnums=1)(WEIGHTS, MODEL, tiny.prompts(PROMPTS, SIZE, VOCAB), *arrays)
    np.testing.assert_allclose(np.asarray(scored.logprobs)[found.mask], found.sampler_logprobs[found.mask], atol=5e-5)


@SLOW
def test_beside_the_tree_are_plain_samples():
    found, tree, count = mixed().rollouts, trees(PRUNED, 5), 0
    for p, g in np.ndindex(PROMPTS, GROUP):
        if g >= WAYS or not tree.exists[p * WAYS + g]:
            assert texts(found, p)[g] == texts(plain(), p)[g]
            count += g < WAYS
    assert count


def test_what_is_sampled_behind_the_tree():
    sampled, tree = mixed(), trees(PRUNED, 5)
    found = sampled.rollouts
    lengths, continued, beside = found.mask.sum(-1), 0, 0
    for p, g in np.ndindex(PROMPTS, GROUP):
        r = p * WAYS + g
        if g >= WAYS or not tree.exists[r]:
            beside += 1
            continue
        kept = tree.lengths[r]
        assert list(found.tokens[p, g, :kept]) == list(tree.tokens[r, :kept])
        assert (lengths[p, g] == kept) == bool(tree.ended[r])
        continued += lengths[p, g] > kept
        ended = found.tokens[p, g, lengths[p, g] - 1] in ENDS
        assert ended != found.truncated[p, g] and (ended or lengths[p, g] == LIMIT)
    assert continued > 10 and beside > PROMPTS * (GROUP - WAYS) and lengths.all()
    behind = np.where(tree.exists.reshape(PROMPTS, WAYS), tree.lengths.reshape(PROMPTS, WAYS), 0).sum(1)
    np.testing.assert_array_equal(sampled.tokens, tree.sampled + lengths.sum(1) - behind)


@SLOW
@pytest.mark.parametrize("changes", [{"scan_decoding": True}, {"window": 4, "sliding": (True, False), "layers": 2}])
def test_the_rows_of_any_cache_are_copied(changes):
    model = tiny.model(tied=False, vocab=VOCAB, **({"layers": 1} | changes))
    weights = tiny.weights(model)
    weights["head"] = 6 * weights["head"]
    found = run(PRUNED | {"lookahead": 5}, model=model, weights=weights).rollouts
    arrays = (jnp.asarray(x) for x in (found.tokens, found.mask, found.temperature, found.keep_thresholds))
    scored = jax.jit(score, static_argnums=1)(weights, model, tiny.prompts(PROMPTS, SIZE, VOCAB), *arrays)
    np.testing.assert_allclose(np.asarray(scored.logprobs)[found.mask], found.sampler_logprobs[found.mask], atol=5e-5)


@SLOW
def test_one_device_and_four_give_the_same():
    prompts, sampling = tiny.prompts(PROMPTS, SIZE, VOCAB), tiny.sampling((PROMPTS, GROUP), LIMIT, 0.9)
    method = functools.partial(latr, **PRUNED, lookahead=5)
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": 20}
    _, at_step = on_all_devices(method, MODEL, WEIGHTS, prompts, sampling, **how)
    other, here = at_step(1), mixed()
    np.testing.assert_array_equal(other.rollouts.mask, here.rollouts.mask)
    np.testing.assert_array_equal(*(np.where(x.rollouts.mask, x.rollouts.tokens, 0) for x in (other, here)))
    np.testing.assert_array_equal(other.tokens, here.tokens)


def test_the_rows_of_a_cache_are_found_where_they_are():
    def empty(rows):
        return {"first": jnp.zeros((rows, 3, 2)), "second": jnp.zeros((2, rows, 3))}

    cache = {"first": jnp.arange(24).reshape(4, 3, 2), "second": jnp.arange(24).reshape(2, 4, 3)}
    index = np.array([0, 0, 3, 2])
    found = module._rows(empty, 4, cache, jnp.asarray(index))
    np.testing.assert_array_equal(found["first"], np.asarray(cache["first"])[index])
    np.testing.assert_array_equal(found["second"], np.asarray(cache["second"])[:, index])


def test_a_symbol_stands_alone():
    pattern = module._alone(module.SYMBOLS)
    assert [bool(pattern.search(text)) for text in ("+", " 7", "]", "^ ", "\\", "-", "12", "a", "")] == [True] * 6 + [
        False
    ] * 3
    assert isinstance(pattern, re.Pattern)


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"eta": 0.05}, "eta = 0.05: expected at most 1, and at least one of rollout.group = 8 completions"),
        ({"eta": 1.5}, "eta = 1.5: expected at most 1"),
        ({"absolute": -0.1}, "absolute = -0.1: expected 0 to 1"),
        ({"steps": [0, 20]}, "steps = [0, 20]: expected numbers of at least 1"),
        ({"lookahead": 0}, "lookahead = 0: expected at least 1"),
    ],
)
def test_what_gives_no_tree_is_refused(hyper, words):
    check("latr", 8, 64, nothing_contains)
    with pytest.raises(ConfigError) as error:
        check("latr", 8, 64, nothing_contains, **hyper)
    assert words in str(error.value) and "\n" not in str(error.value)
