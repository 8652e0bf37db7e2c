from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.samplers import adaptive_temperature, draw
from jaxrl_tok.samplers.adaptive_temperature import next_token_entropy, token_temperature
from jaxrl_tok.scores.normalized_entropy import EntropyScale, entropy_scale
from tests.oracles import samplers as oracle

RNG = np.random.default_rng(0)
# From almost decided to almost uniform, so that some lie beyond both ends of the scale.
LOGITS = (RNG.normal(size=(40, 11)) * np.geomspace(0.1, 30, 40)[:, None]).astype(np.float32)
BEFORE = RNG.exponential(0.5, (4, 9)).astype(np.float32)
MASK = RNG.random((4, 9)) < 0.7
SCALE = entropy_scale(jnp.asarray(BEFORE), jnp.asarray(MASK))
NONE = EntropyScale(*jnp.zeros(3))


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("strength", [0.05, 0.5])
def test_oracle(strength, as_released):
    options = {"strength": strength, "as_released": as_released}
    entropies = [oracle.entropy(row.astype(np.float64)) for row in LOGITS]
    base = np.linspace(0.3, 1.5, 40).astype(np.float32)
    common = {"entropies": BEFORE[MASK].tolist(), "quantile": 0.8, **options}
    expected = [oracle.temperature(h, t, **common) for h, t in zip(entropies, base, strict=True)]
    entropy = next_token_entropy(jnp.asarray(LOGITS))
    np.testing.assert_allclose(entropy, entropies, rtol=1e-4, atol=1e-6)
    got = token_temperature(entropy, jnp.asarray(base), SCALE, **options)
    # The log of an entropy of 1e-6, which float32 has to few digits, is what the error comes from.
    np.testing.assert_allclose(got, expected, rtol=1e-4)
    processed = jax.jit(partial(adaptive_temperature, **options))(jnp.asarray(LOGITS), SCALE)
    np.testing.assert_allclose(processed, LOGITS / (np.array(expected) / base)[:, None], rtol=1e-4)


def test_temperatures_stay_within_their_bounds_and_reach_both():
    entropy = jnp.array([0.0, 1e-12, 1e-3, 0.3, 1.0, 5.0, 100.0])
    got = np.asarray(token_temperature(entropy, jnp.full(7, 0.8), SCALE, strength=0.1))
    np.testing.assert_allclose([got.min(), got.max()], [0.72, 0.88], rtol=1e-6)
    assert (np.diff(got) >= 0).all()
    released = np.asarray(token_temperature(entropy, jnp.full(7, 0.8), SCALE, strength=0.1, as_released=True))
    assert released.min() >= 0.8 and released[0] == pytest.approx(0.88)


def test_the_token_of_the_quantile_keeps_its_temperature():
    pivot = sorted(BEFORE[MASK])[round(0.8 * (MASK.sum() - 1))]
    for as_released in (False, True):
        assert token_temperature(jnp.array([pivot]), jnp.ones(1), SCALE, as_released=as_released)[0] == 1


def test_without_a_batch_before_it_is_plain():
    np.testing.assert_array_equal(adaptive_temperature(jnp.asarray(LOGITS), NONE, strength=0.9), LOGITS)
    empty = entropy_scale(jnp.full((2, 3), jnp.nan), jnp.zeros((2, 3), bool))
    np.testing.assert_array_equal(adaptive_temperature(jnp.asarray(LOGITS), empty, strength=0.9), LOGITS)
    same = entropy_scale(jnp.full((2, 3), 0.7), jnp.ones((2, 3), bool))  # no extent: no side to place others on
    np.testing.assert_array_equal(adaptive_temperature(jnp.asarray(LOGITS), same), LOGITS)


def test_what_is_drawn_is_under_the_token_s_temperature():
    """The trainer's log-prob, of the raw logits at the stored temperature, is the sampler's."""
    logits, base = jnp.asarray(LOGITS), jnp.linspace(0.0, 1.5, 40)
    temperature = token_temperature(next_token_entropy(logits), base, SCALE, strength=0.5)
    keys = jax.random.split(jax.random.key(0), 40)
    off = jnp.zeros(40, jnp.int32), jnp.ones(40), jnp.zeros(40)
    tokens, logprobs, _ = jax.jit(draw)(keys, adaptive_temperature(logits, SCALE, strength=0.5), base, *off)
    scored = jax.nn.log_softmax(logits[1:] / temperature[1:, None], axis=-1)
    np.testing.assert_allclose(logprobs[1:], scored[np.arange(39), tokens[1:]], rtol=1e-4, atol=1e-5)
    assert temperature[0] == 0 and tokens[0] == LOGITS[0].argmax() and logprobs[0] == 0


def test_tokens_without_mass_are_finite():
    logits = jnp.array([[0.0, -jnp.inf, 0.0], [3.0, -jnp.inf, -jnp.inf]])
    np.testing.assert_allclose(next_token_entropy(logits), [np.log(2), 0], atol=1e-6)
    got = np.asarray(adaptive_temperature(logits, SCALE))
    np.testing.assert_array_equal(got == -np.inf, np.asarray(logits) == -np.inf)
    assert not np.isnan(got).any()


@pytest.mark.parametrize("strength", [-0.1, 1.0])
def test_a_strength_that_cannot_be(strength):
    with pytest.raises(ConfigError, match=f"strength = {strength} must lie in"):
        adaptive_temperature(jnp.asarray(LOGITS), SCALE, strength=strength)
