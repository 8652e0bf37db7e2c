import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models.rope import Rope, rotate, turns


def angles(rope, position=1, size=8):
    """Angles of the pairs at a position that turns none of them by half a turn."""
    cos, sin = np.asarray(turns(jnp.array([position], jnp.int32), size, rope), np.float64)[0]
    return np.arctan2(sin, cos)


def test_pairs_turn_and_keep_relative_angles():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 8))

    def turned(x, at):
        table = turns(jnp.array([at], jnp.int32), 8, Rope(100.0))
        return np.asarray(rotate(jnp.asarray(x, jnp.float32), table))[0, 0]

    # Pair i is (x[i], x[i + 4]), turned by at * 100^(-i/4): at position 3, pair 1.
    angle = 3 * 100.0 ** (-1 / 4)
    np.testing.assert_allclose(turned(q, 3)[1], q[0, 0, 1] * np.cos(angle) - q[0, 0, 5] * np.sin(angle), rtol=1e-5)
    np.testing.assert_allclose(turned(q, 5) @ turned(k, 2), turned(q, 13) @ turned(k, 10), rtol=1e-4)
    np.testing.assert_allclose(turned(q, 0), q[0, 0], rtol=1e-6)


def test_angles_are_float32_in_bfloat16():
    x = jnp.ones((2, 1, 4), jnp.bfloat16)
    got = np.asarray(rotate(x, turns(jnp.array([256, 257], jnp.int32), 4, Rope(10.0))), np.float32)
    assert abs(got[0, 0, 0] - got[1, 0, 0]) > 0.1  # bfloat16 would round 257 to 256


def test_linear_scaling_divides_positions():
    np.testing.assert_allclose(angles(Rope(100.0, "linear", 4.0), 8), angles(Rope(100.0), 2), rtol=1e-6)


def test_llama3_scaling_by_hand():
    """Turns in 64 positions: 10.2, 2.55, 0.64, 0.16; over 4 kept, under 1 divided by 8, 2.55 on the line between."""
    rope = Rope(256.0, "llama3", 8.0, original_length=64)
    kept = (64 / (2 * np.pi) / 4 - 1) / 3
    expected = 256.0 ** (-np.arange(4) / 4) * [1, kept + (1 - kept) / 8, 1 / 8, 1 / 8]
    np.testing.assert_allclose(angles(rope), expected, rtol=1e-5)
    assert rope.gain == 1


@pytest.mark.parametrize("truncate", [True, False])
def test_yarn_scaling_by_hand(truncate):
    """Pair i turns 64 * 256^(-i/4) / (2 pi) times; the line runs from the pair of beta_fast to that of beta_slow."""
    rope = Rope(256.0, "yarn", 8.0, original_length=64, beta_fast=8.0, beta_slow=0.25, truncate=truncate)
    first, last = (4 * np.log(64 / (beta * 2 * np.pi)) / np.log(256.0) for beta in (8.0, 0.25))
    assert 0 < first < 1 and 2 < last < 3
    first, last = (0, 3) if truncate else (first, last)
    kept = np.clip(1 - (np.arange(4) - first) / (last - first), 0, 1)
    expected = 256.0 ** (-np.arange(4) / 4) * (kept + (1 - kept) / 8)
    np.testing.assert_allclose(angles(rope), expected, rtol=1e-5)
    length = np.linalg.norm(np.asarray(turns(jnp.array([5], jnp.int32), 8, rope))[0], axis=0)
    np.testing.assert_allclose(length, 0.1 * np.log(8) + 1, rtol=1e-6)
    assert Rope(256.0, "yarn", 8.0, original_length=64, attention_factor=0.7).gain == 0.7
