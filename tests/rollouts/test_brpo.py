"""Summaries at token budgets: what they go on from, what is put in before them, what of the thinking trains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import check
from jaxrl_tok.rollouts.brpo import brpo, thinking
from jaxrl_tok.rollouts.extend import Engine, nothing_contains
from jaxrl_tok.rollouts.generate import generate
from jaxrl_tok.types import Prompts
from tests import tiny
from tests.rollouts.running import keys_of, on_all_devices, sharp

PROMPTS, GROUP, SIZE, LIMIT, ENDS = 6, 2, 5, 10, (0, 1, 2)
BUDGETS, SUMMARIES, WORDS, CLOSE = (2, 4, 5), 2, 3, (7, 1)  # with an end token in what is put in
HYPER = {"budgets": BUDGETS, "summaries": SUMMARIES, "summary_tokens": WORDS, "close": CLOSE}
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = sharp(MODEL)


@functools.cache
def program(slots=100):
    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(WEIGHTS, MODEL, prompts, max_tokens=LIMIT, end_ids=ENDS, slots=slots)
        return brpo(engine, keys_of(prompts, GROUP), sampling, **HYPER)

    return run


@functools.cache
def found(temperature=1.0, slots=100):
    run = program(slots)
    return jax.device_get(run(tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, temperature)))


@functools.cache
def plain():
    @jax.jit
    def run(prompts, sampling):
        keys = keys_of(prompts, 1)
        return generate(WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=WORDS, end_ids=ENDS, slots=100)[0]

    return run


def continued(prompts, rows):
    """What plain greedy sampling draws behind prompts with some tokens after each."""
    tokens = np.asarray(prompts.tokens)
    lengths = np.asarray(prompts.lengths) + [len(row) for row in rows]
    longer = np.zeros((len(rows), SIZE + BUDGETS[-1] + len(CLOSE)), np.int32)
    for p, row in enumerate(rows):
        whole = [*tokens[p, SIZE - int(prompts.lengths[p]) :], *row]
        longer[p, -len(whole) :] = whole
    long = Prompts(jnp.asarray(longer), jnp.asarray(lengths, jnp.int32), prompts.ids)
    return jax.device_get(plain()(long, tiny.sampling((len(rows), 1), WORDS, 0.0)))


def test_cuts_and_segments_are_those_of_the_budgets():
    sampled = found()
    rollouts, probes = sampled.rollouts, sampled.probes
    own = rollouts.mask.sum(-1)
    assert rollouts.mask.shape[2] == BUDGETS[-1] and (own == BUDGETS[-1]).any() and (own < 4).any()
    for p, g in np.ndindex(PROMPTS, GROUP):
        ended = rollouts.tokens[p, g, own[p, g] - 1] in ENDS
        assert ended != rollouts.truncated[p, g]
        assert list(probes.cuts[p, g]) == [min(b, own[p, g] - ended) for b in BUDGETS]
        ids = [0, 0, 1, 1, 2][: own[p, g]]
        assert list(sampled.fields["segment_ids"][p, g]) == ids + [-1] * (BUDGETS[-1] - own[p, g])
    np.testing.assert_array_equal(sampled.fields["trained"], rollouts.mask)
    new = probes.lengths - len(CLOSE)
    assert (new >= 1).all() and (new <= WORDS).all()
    np.testing.assert_array_equal(sampled.tokens, own.sum(1) + new.sum((1, 2, 3)))


def test_each_summary_begins_with_what_closes_and_ends_at_its_own_end():
    probes = found().probes
    assert (probes.tokens[..., : len(CLOSE)] == CLOSE).all()
    last = np.take_along_axis(probes.tokens, probes.lengths[..., None] - 1, -1)[..., 0]
    full = probes.lengths == len(CLOSE) + WORDS
    assert (np.isin(last, ENDS) | full).all() and not full.all()
    one, other = (probes.tokens[..., k, len(CLOSE) :] for k in (0, 1))
    assert (one != other).any(-1).mean() > 0.9  # summaries of a cut are draws of their own


def test_a_summary_is_what_the_policy_says_behind_the_thinking_and_what_closes_it():
    """Greedily, against plain sampling from a prompt that is longer by both."""
    sampled = found(0.0)
    prompts, tokens, cuts = tiny.prompts(PROMPTS, SIZE), sampled.rollouts.tokens, sampled.probes.cuts
    for m in (0, 2):
        rows = [[*tokens[p, 1, : cuts[p, 1, m]], *CLOSE] for p in range(PROMPTS)]
        expected = continued(prompts, rows)
        for p in range(PROMPTS):
            for a in range(SUMMARIES):
                length = sampled.probes.lengths[p, 1, m, a]
                got = sampled.probes.tokens[p, 1, m, a, len(CLOSE) : length]
                assert list(got) == list(expected.tokens[p, 0][expected.mask[p, 0]])


def test_thinking_ends_before_what_closes_it():
    tokens = jnp.array([[5, 6, 9, 7, 6, 9], [5, 6, 9, 9, 1, 0], [5, 5, 5, 5, 6, 9], [6, 9, 6, 9, 1, 0]], jnp.int32)
    lengths = jnp.array([6, 5, 5, 5], jnp.int32)
    thought, own = jax.jit(lambda *x: thinking(*x, (6, 9), (1,)))(tokens, lengths)
    assert list(thought) == [1, 1, 5, 0] and list(own) == [3, 3, 5, 2]
    # Of nothing, only an end token; the pair that begins with the last token of a row is none.
    thought, own = thinking(tokens, lengths, (), (1,))
    assert list(thought) == [6, 4, 5, 4] and list(own) == [6, 5, 5, 5]
    thought, own = thinking(tokens, lengths, (9, 5), (1,))
    assert list(thought) == [6, 4, 5, 4] and list(own) == [6, 5, 5, 5]


@pytest.mark.slow
def test_slots_change_nothing():
    jax.tree.map(np.testing.assert_array_equal, found().probes, found(1.0, 5).probes)


@pytest.mark.slow
def test_one_device_and_four_give_the_same():
    prompts, sampling = tiny.prompts(8, SIZE), tiny.sampling((8, GROUP), LIMIT)
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": 400}
    _, at_step = on_all_devices(functools.partial(brpo, **HYPER), MODEL, WEIGHTS, prompts, sampling, **how)
    other, here = at_step(1), jax.device_get(program()(prompts, sampling))
    jax.tree.map(np.testing.assert_array_equal, other.probes, here.probes)
    jax.tree.map(np.testing.assert_array_equal, other.fields, here.fields)


@pytest.mark.parametrize(
    ("hyper", "words"),
    [
        ({"summaries": 0}, "summaries = 0: expected at least 1"),
        ({"summary_tokens": 0}, "summary_tokens = 0: expected at least 1"),
        ({"budgets": []}, "budgets = []: expected numbers of at least 1"),
        ({"budgets": [0, 5]}, "budgets = [0, 5]: expected numbers of at least 1"),
        ({"budgets": [5, 5]}, "each larger than the one before"),
        ({"close": (3, 4)}, "with the 2 tokens of close up to 8130 tokens; expected at most rollout.max_tokens = 8128"),
    ],
)
def test_what_does_not_fit_is_refused(hyper, words):
    check("brpo", 4, 8128, nothing_contains)
    with pytest.raises(ConfigError) as error:
        check("brpo", 4, 8128, nothing_contains, **hyper)
    assert words in str(error.value) and "\n" not in str(error.value)
