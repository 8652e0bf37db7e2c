import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from jaxrl_tok.scores import prefix_tree_values
from tests.conformance.fields import assemble
from tests.oracles import advantages as oracle

VALUES = jax.jit(prefix_tree_values)


def test_hand_numbers():
    """Three completions: a b, a c, and one that is only a, with rewards 1, 0, 1/2."""
    values = VALUES(
        jnp.array([[[1, 2], [1, 3], [1, 0]]]),
        jnp.array([[1.0, 0.0, 0.5]]),
        jnp.array([[[True, True], [True, True], [True, False]]]),
    )
    np.testing.assert_array_equal(values.before, [[[0.5, 0.5], [0.5, 0.5], [0.5, 0.0]]])
    np.testing.assert_array_equal(values.after, [[[0.5, 1.0], [0.5, 0.0], [0.5, 0.0]]])
    np.testing.assert_array_equal(values.count_before, [[[3, 3], [3, 3], [3, 0]]])
    np.testing.assert_array_equal(values.count_after, [[[3, 1], [3, 1], [3, 0]]])


@pytest.mark.parametrize("seed", range(6))
def test_oracle_with_holes_and_missing_completions(seed):
    fields = assemble(seed)
    arrays = [fields[name] for name in ("tokens", "rewards", "mask", "valid")]
    expected = oracle.prefix_tree_values(*map(np.asarray, arrays))
    result = np.stack(VALUES(*arrays))
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_behind_a_hole_nothing_is_estimated():
    tokens = jnp.array([[[1, 9, 2, 3], [1, 9, 2, 3]]])
    mask = jnp.array([[[True, False, True, True]] * 2])
    values = VALUES(tokens, jnp.array([[1.0, 0.0]]), mask)
    np.testing.assert_array_equal(values.count_after[0], [[2, 0, 0, 0]] * 2)
    np.testing.assert_array_equal(values.before[0, :, 2:], 0)


def test_before_and_after_are_equal_to_the_bit_where_no_one_leaves():
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.integers(0, 2, (8, 16, 40)), jnp.int32)
    rewards = jnp.asarray(rng.random((8, 16)), jnp.float32)
    values = VALUES(tokens, rewards, jnp.ones((8, 16, 40), bool))
    same = np.asarray(values.count_before == values.count_after)
    assert 0 < same.sum() < same.size
    np.testing.assert_array_equal(np.asarray(values.before)[same], np.asarray(values.after)[same])


def test_no_array_has_two_group_axes_and_tokens():
    p, g, t = 2, 5, 64
    arrays = jnp.zeros((p, g, t), jnp.int32), jnp.zeros((p, g)), jnp.ones((p, g, t), bool)
    sizes = [v.aval.size for eqn in equations(jax.make_jaxpr(prefix_tree_values)(*arrays).jaxpr) for v in eqn.outvars]
    assert max(sizes) <= p * g * (t + 1)


def equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)
