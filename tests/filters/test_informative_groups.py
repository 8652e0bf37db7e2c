import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.filters import informative_groups
from tests.conformance.fields import assemble, shard


@pytest.mark.parametrize("singleton", ["keep", "drop"])
def test_hand_cases(singleton):
    """Differing, all equal, equal but for a missing one, only one there, none there."""
    rewards = jnp.array([[1.0, 0.0, 1.0], [0.9, 0.9, 0.9], [1.0, jnp.nan, 1.0], [jnp.nan, 2.0, 3.0], [0.0, 1.0, 2.0]])
    valid = jnp.array([[True] * 3, [True] * 3, [True, False, True], [False, True, False], [False] * 3])
    alone = singleton == "keep"
    expected = [[True] * 3, [False] * 3, [False] * 3, [False, alone, False], [False] * 3]
    np.testing.assert_array_equal(informative_groups(rewards, valid, singleton=singleton), expected)


def test_smallest_difference_counts():
    rewards = jnp.array([[0.9, np.nextafter(np.float32(0.9), np.float32(1))]])
    assert informative_groups(rewards).all()


def test_jit_and_sharding_change_nothing():
    fields = assemble(0)
    expected = informative_groups(fields["rewards"], fields["valid"])
    assert 0 < expected.sum() < expected.size
    for form in (fields, shard(fields)):
        np.testing.assert_array_equal(jax.jit(informative_groups)(form["rewards"], form["valid"]), expected)
