"""Branches from before a critical token: what they keep, what of them trains, where they begin."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts import check
from jaxrl_tok.rollouts.cure import critical_places, cure
from jaxrl_tok.rollouts.extend import Engine, nothing_contains
from jaxrl_tok.rollouts.generate import generate
from jaxrl_tok.train.score import score
from jaxrl_tok.types import Prompts
from tests import tiny
from tests.rollouts.running import keys_of, on_all_devices, sampled, sharp
from tests.rollouts.toy import chi_square, toy

SLOW = pytest.mark.slow
PROMPTS, SIZE, LIMIT, ENDS = 8, 5, 10, (0, 1, 2)
SAMPLES, BRANCHES, CANDIDATES = 3, 2, 3
GROUP = SAMPLES * (1 + BRANCHES)
MODEL = tiny.model(tied=False, layers=1)
WEIGHTS = sharp(MODEL)
SHORT = np.arange(37) % 5 == 0  # tokens with too little text
HYPER = {"samples": SAMPLES, "branches": BRANCHES, "candidates": CANDIDATES}


def contains(pattern):
    assert pattern.search("ab") and not pattern.search(" a ")
    return ~SHORT


@functools.cache
def found(slots=100):
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": slots, "contains": contains}
    return sampled(functools.partial(cure, **HYPER), MODEL, WEIGHTS, *asked(), **how)


def asked():
    return tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, GROUP), LIMIT, 0.9)


def assert_same(a, b):
    np.testing.assert_array_equal(a.mask, b.mask)
    np.testing.assert_array_equal(a.truncated, b.truncated)
    np.testing.assert_array_equal(*(np.where(x.mask, x.tokens, 0) for x in (a, b)))


def entropies(rollouts):
    arrays = (jnp.asarray(x) for x in (rollouts.tokens, rollouts.mask, rollouts.temperature))
    scored = jax.jit(score, static_argnums=1)(WEIGHTS, MODEL, tiny.prompts(PROMPTS, SIZE), *arrays)
    return np.asarray(scored.entropy), np.asarray(scored.logprobs)


def cuts():
    """Tokens that each completion of a group has of an earlier one."""
    return (~found().fields["trained"]).sum(-1)


@functools.cache
def plain():
    @jax.jit
    def run(prompts, sampling):
        keys = keys_of(prompts, SAMPLES)
        return generate(WEIGHTS, MODEL, prompts, keys, sampling, max_tokens=LIMIT, end_ids=ENDS, slots=24)[0]

    return jax.device_get(run(tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, SAMPLES), LIMIT, 0.9)))


@SLOW
def test_the_first_completions_are_the_independent_ones():
    ours = jax.tree.map(lambda x: x[:, :SAMPLES], found().rollouts)
    assert_same(ours, plain())
    np.testing.assert_allclose(*(np.where(x.mask, x.sampler_logprobs, 0) for x in (ours, plain())), atol=2e-5)
    assert found().fields["trained"][:, :SAMPLES].all()


def test_branches_keep_the_beginning_of_their_completion_and_train_the_rest():
    rollouts, trained = found().rollouts, found().fields["trained"]
    assert (cuts()[:, SAMPLES:] > 1).mean() > 0.3
    differ = 0
    for p, i, j in np.ndindex(PROMPTS, SAMPLES, BRANCHES):
        g, c = SAMPLES + i * BRANCHES + j, cuts()[p, SAMPLES + i * BRANCHES]
        assert c == cuts()[p, g] and c < rollouts.mask[p, i].sum()
        assert list(trained[p, g]) == [False] * c + [True] * (LIMIT - c)
        for name in ("tokens", "sampler_logprobs", "keep_thresholds"):
            x = getattr(rollouts, name)[p]
            np.testing.assert_array_equal(x[g, :c], x[i, :c])
        assert rollouts.mask[p, g].sum() > c and rollouts.mask[p, g, :c].all()
        ended = rollouts.tokens[p, g, rollouts.mask[p, g].sum() - 1] in ENDS
        assert ended != rollouts.truncated[p, g] and (ended or rollouts.mask[p, g].all())
        differ += (rollouts.tokens[p, g, c:] != rollouts.tokens[p, i, c:]).any()
    assert differ > 0.8 * PROMPTS * SAMPLES * BRANCHES


def test_places_are_among_the_most_uncertain_tokens_that_have_enough_text():
    """By the trainer's entropies: with the largest ones, never the first token, none that is too short."""
    rollouts = found().rollouts
    entropy, _ = entropies(rollouts)
    ranks = []
    for p, i in np.ndindex(PROMPTS, SAMPLES):
        c, length = cuts()[p, SAMPLES + i * BRANCHES], rollouts.mask[p, i].sum()
        allowed = [t for t in range(1, length) if not SHORT[rollouts.tokens[p, i, t]]]
        if not allowed:
            assert c == 0
            continue
        ranks.append(sorted(allowed, key=lambda t: -entropy[p, i, t]).index(c))
    assert {*ranks} == {0, 1, 2} and len(ranks) < PROMPTS * SAMPLES


def test_the_trainer_gives_every_token_its_log_prob():
    rollouts = found().rollouts
    _, logprobs = entropies(rollouts)
    np.testing.assert_allclose(logprobs[rollouts.mask], rollouts.sampler_logprobs[rollouts.mask], atol=2e-5)


def test_what_is_kept_was_sampled_once():
    sampled = found()
    own = (sampled.rollouts.mask & sampled.fields["trained"]).sum((1, 2))
    np.testing.assert_array_equal(sampled.tokens, own)


@SLOW
def test_slots_change_nothing():
    a, b = found(), found(5)
    assert_same(a.rollouts, b.rollouts)
    np.testing.assert_array_equal(a.fields["trained"], b.fields["trained"])


@SLOW
def test_one_device_and_four_give_the_same():
    how = {"max_tokens": LIMIT, "end_ids": ENDS, "slots": 400, "contains": contains}
    _, at_step = on_all_devices(functools.partial(cure, **HYPER), MODEL, WEIGHTS, *asked(), **how)
    other, here = at_step(1), found()
    np.testing.assert_array_equal(other.fields["trained"], here.fields["trained"])
    assert_same(other.rollouts, here.rollouts)


@SLOW
def test_a_branch_is_distributed_as_an_independent_completion_with_its_beginning():
    """With all places candidates and two tokens kept or one, the rest is drawn anew: by the toy's probabilities."""
    model, weights, (tokens, lengths), probabilities = toy()
    count = 6000
    prompts = Prompts(tokens.repeat(count, 0), lengths.repeat(count), jnp.arange(count, dtype=jnp.int32))

    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(
            weights, model, prompts, max_tokens=3, end_ids=(0,), slots=2 * count, contains=lambda _: np.ones(3, bool)
        )
        return cure(engine, keys_of(prompts, 2), sampling, samples=1, branches=1, candidates=20, min_characters=1)

    sampled = jax.device_get(run(prompts, tiny.sampling((count, 2), 3)))
    kept = (~sampled.fields["trained"]).sum(-1)[:, 1]
    assert {*kept.tolist()} == {0, 1, 2}
    # What follows a kept first token depends on it and on nothing else.
    first = sampled.rollouts.tokens[:, 1, 0]
    for token in (1, 2):
        rows = np.flatnonzero((kept == 1) & (first == token))
        texts = [tuple(sampled.rollouts.tokens[r, 1][sampled.rollouts.mask[r, 1]].tolist()) for r in rows]
        own = {text: p for text, p in probabilities.items() if text[0] == token and len(text) > 1}
        total = sum(own.values())
        counts = {text: texts.count(text) for text in own}
        assert sum(counts.values()) == len(rows) > 500
        # Of 6 degrees of freedom, once in 10 000.
        assert chi_square(counts, {text: p / total for text, p in own.items()}, len(rows)) < 27.9


def test_all_candidates_are_as_likely():
    """Of four places three are candidates: of 2 degrees of freedom, once in 10 000."""
    count = 3000
    keys = jax.random.split(jax.random.key(1), count)
    entropy = jnp.broadcast_to(jnp.array([9.0, 0.5, 2.0, 1.0, 3.0, 9.0]), (count, 6))
    allowed = jnp.broadcast_to(jnp.array([False, True, True, True, True, False]), (count, 6))
    chosen = np.asarray(jax.jit(critical_places, static_argnums=3)(keys, entropy, allowed, 3))
    counts = np.bincount(chosen, minlength=6)
    assert counts[[0, 1, 5]].sum() == 0
    assert ((counts[2:5] - count / 3) ** 2 / (count / 3)).sum() < 18.4
    none = jax.jit(critical_places, static_argnums=3)(keys, entropy, allowed & False, 20)
    assert not np.asarray(none).any()


@SLOW
def test_without_branches_it_is_plain_sampling():
    @jax.jit
    def run(prompts, sampling):
        engine = Engine.read(WEIGHTS, MODEL, prompts, max_tokens=LIMIT, end_ids=ENDS, slots=9, contains=contains)
        return cure(engine, keys_of(prompts, SAMPLES), sampling, samples=SAMPLES, branches=0)

    sampled = jax.device_get(run(tiny.prompts(PROMPTS, SIZE), tiny.sampling((PROMPTS, SAMPLES), LIMIT, 0.9)))
    assert_same(sampled.rollouts, plain())
    assert sampled.fields["trained"].all()


@pytest.mark.parametrize(
    ("group", "hyper", "words"),
    [
        (8, {}, "samples = 4, branches = 3: 16 completions; expected as many as rollout.group = 8"),
        (16, {"samples": 0}, "samples = 0: expected at least 1"),
        (16, {"candidates": 0}, "candidates = 0: expected at least 1"),
        (16, {"min_characters": 0}, "min_characters = 0: expected at least 1"),
        (16, {"min_characters": 4}, "min_characters = 4: expected at most as many as the longest token has"),
    ],
)
def test_what_does_not_fit_is_refused(group, hyper, words):
    def texts(pattern):
        assert isinstance(pattern, re.Pattern)
        return np.array([bool(pattern.search(text)) for text in ("a", "", " \n\t", " a\n", "a\nb", " a b ")])

    with pytest.raises(ConfigError) as error:
        check("cure", group, 64, texts, **hyper)
    assert words in str(error.value) and "\n" not in str(error.value)
    check("cure", 16, 64, texts)
    check("cure", 4, 64, texts, branches=0, min_characters=3)
    with pytest.raises(ConfigError, match="min_characters"):
        check("cure", 16, 64, nothing_contains)
