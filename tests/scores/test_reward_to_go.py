import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import reward_to_go
from jaxrl_tok.scores.reward_to_go import following, linear_recurrence
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

HOLE = jnp.array([[[True, True, False, True]]])


@pytest.mark.parametrize(
    ("holes", "expected"),
    [
        ("discount", [1 + 0.5 * (1 + 0.5 * (0.5 * 8)), 1 + 0.25 * 8, 0, 8]),
        ("skip", [1 + 0.5 * (1 + 0.5 * 8), 1 + 0.5 * 8, 0, 8]),
        ("reset", [1 + 0.5, 1, 0, 8]),
    ],
)
def test_hand_numbers_around_a_hole(holes, expected):
    result = reward_to_go(jnp.array([[[1.0, 1.0, jnp.nan, 8.0]]]), HOLE, gamma=0.5, holes=holes)
    np.testing.assert_array_equal(result[0, 0], expected)


@pytest.mark.parametrize("holes", ["discount", "skip", "reset"])
def test_oracle(holes):
    method = jax.jit(reward_to_go, static_argnames=("gamma", "holes"))
    for seed in range(3):
        fields = assemble(seed)
        arrays = [fields[name] for name in ("token_rewards", "mask", "valid")]
        expected = oracle.reward_to_go(*map(np.asarray, arrays), gamma=0.9, holes=holes)
        np.testing.assert_allclose(method(*arrays, gamma=0.9, holes=holes), expected, rtol=2e-6)


def test_recurrence_runs_both_ways():
    x, decay = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 2.0, 10.0])
    np.testing.assert_array_equal(linear_recurrence(x, decay), [1 + 0.5 * 8, 2 + 2 * 3, 3])
    np.testing.assert_array_equal(linear_recurrence(x, decay, reverse=False), [1, 2 + 2 * 1, 3 + 10 * 4])


def test_following_skips_masked_tokens():
    x, mask = jnp.array([7.0, jnp.nan, 5.0, jnp.nan]), jnp.array([True, False, True, False])
    np.testing.assert_array_equal(following(x, mask), [5, 5, 0, 0])
