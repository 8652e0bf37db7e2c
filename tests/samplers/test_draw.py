import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.samplers import draw, sampled_entropy
from tests.samplers.cases import LOGITS

ROWS = 10_000


@jax.jit
def drawn(logits, seed, temperature, top_k, top_p, min_p):
    """Draws many times from one row of logits."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.arange(ROWS))
    given = (temperature, "float32"), (top_k, "int32"), (top_p, "float32"), (min_p, "float32")
    full = (jnp.full(ROWS, x, dtype) for x, dtype in given)
    return draw(keys, jnp.broadcast_to(logits, (ROWS, logits.shape[0])), *full)


def draws(logits, seed=0, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    return drawn(jnp.asarray(logits, jnp.float32), seed, temperature, top_k, top_p, min_p)


def softmax(logits):
    e = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return e / e.sum()


def chi_square(tokens, expected):
    """Returns the statistic in units of its standard deviation; tokens that are hardly expected count as one."""
    counts, expected = np.bincount(tokens, minlength=len(expected)), expected * len(tokens)
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    counts, expected = counts[expected > 0], expected[expected > 0]
    free = len(expected) - 1
    return (np.sum((counts - expected) ** 2 / expected) - free) / np.sqrt(2 * free)


@pytest.mark.parametrize("vocab", [1, 6, 101])
def test_tokens_follow_the_distribution_whatever_the_size_of_the_last_block(vocab):
    logits = np.random.default_rng(vocab).normal(size=vocab) * 1.5
    tokens, logprobs, thresholds = draws(logits)
    expected = softmax(logits)
    if vocab > 1:
        assert chi_square(tokens, expected) < 4
    np.testing.assert_allclose(logprobs, np.log(expected)[tokens], rtol=1e-4, atol=1e-5)
    assert np.all(np.asarray(thresholds) == -np.inf)


# Temperature, top-k, top-p, min-p, and the probabilities that remain.
FILTERED = [
    (0.7, 3, 0.9, 0.0, [0.675994456, 0.162002772, 0.162002772, 0, 0, 0]),
    (1.5, 4, 0.8, 0.3, [0.493380258, 0.253309871, 0.253309871, 0, 0, 0]),
    (1.0, 0, 0.9, 0.0, None),
    (1.0, 0, 1.0, 0.2, None),
]


@pytest.mark.parametrize(("temperature", "k", "p", "m", "expected"), FILTERED)
def test_filtered_draws(temperature, k, p, m, expected):
    if expected is None:  # the first four
        expected = np.append(softmax(LOGITS[:4]), [0, 0])
    tokens, logprobs, thresholds = draws(LOGITS, temperature=temperature, top_k=k, top_p=p, min_p=m)
    assert chi_square(tokens, np.array(expected)) < 4
    np.testing.assert_allclose(logprobs, np.log(np.array(expected)[tokens]), atol=1e-5)
    kept, full = np.array(expected) > 0, np.log(softmax(np.array(LOGITS) / temperature))
    np.testing.assert_allclose(thresholds, (full[kept].min() + full[~kept].max()) / 2, atol=1e-5)
    np.testing.assert_array_equal(full >= float(thresholds[0]), kept)


def test_what_has_no_mass_is_never_drawn():
    logits = np.full(101, -np.inf)
    logits[[3, 50, 100]] = 0
    tokens, logprobs, _ = draws(logits)
    assert set(np.unique(tokens)) == {3, 50, 100}
    np.testing.assert_allclose(logprobs, np.log(1 / 3), rtol=1e-5)
    assert chi_square(np.searchsorted([3, 50, 100], tokens), np.full(3, 1 / 3)) < 4


def test_a_rare_block_beside_a_likely_token_keeps_its_share():
    """100 tokens of 1e-4 each: their sum is drawn as often as it should be, and all over the vocabulary."""
    logits = np.full(101, np.log(1e-4))
    logits[0] = np.log(1 - 1e-2)
    tokens = np.asarray(draws(logits)[0])
    rare = tokens[tokens > 0]
    assert abs(len(rare) - 100) < 4 * np.sqrt(100)
    assert abs(rare.mean() - 50.5) < 4 * 100 / np.sqrt(12 * len(rare))


def test_greedy_takes_the_first_of_the_largest():
    logits = np.zeros(101)
    logits[[17, 40, 93]] = 2.0
    tokens, logprobs, thresholds = draws(logits, temperature=0.0, top_p=0.5)
    assert np.all(np.asarray(tokens) == 17)
    np.testing.assert_array_equal(logprobs, np.zeros(ROWS))
    assert np.all(np.asarray(thresholds) == -np.inf)


def test_rows_have_their_own_settings_and_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    logits = jnp.array([LOGITS] * 3)
    settings = [jnp.array([0.0, 1.0, 1.0]), jnp.array([0, 0, 1], jnp.int32), jnp.array([1.0, 0.9, 1.0]), jnp.zeros(3)]
    compiled = jax.jit(draw)
    together = compiled(keys, logits, *settings)
    for row in range(3):
        alone = compiled(keys[row : row + 1], logits[:1], *(x[row : row + 1] for x in settings))
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[row], b[0], rtol=1e-6)
    assert np.asarray(draws(LOGITS, seed=1)[0] != draws(LOGITS, seed=2)[0]).mean() > 0.3


def test_large_logits_give_finite_numbers():
    tokens, logprobs, _ = draws([3e4, 3e4 - 1, -3e4, -3e4, -3e4, -3e4], top_p=0.99)
    assert set(np.unique(tokens)) == {0, 1}
    assert np.isfinite(logprobs).all()


def test_entropy_by_hand():
    """Of 1/2, 1/4, 1/4 without the threshold, of the first alone with it; of a greedy draw 0."""
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25]] * 3))
    got = sampled_entropy(logits, jnp.array([1.0, 1.0, 0.0]), jnp.array([-jnp.inf, np.log(0.3), -jnp.inf]))
    np.testing.assert_allclose(got, [1.5 * np.log(2), 0, 0], atol=1e-6)


def test_what_is_left_out_has_no_part_in_the_entropy():
    """Of two tokens that are as likely, whatever stands at -inf beside them; with a threshold of -inf too."""
    got = sampled_entropy(jnp.array([[1.0, -jnp.inf, 1.0]]), jnp.ones(1), jnp.full(1, -jnp.inf))
    np.testing.assert_allclose(got, np.log(2), atol=1e-6)
