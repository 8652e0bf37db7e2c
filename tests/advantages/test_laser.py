import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import laser

LASER = jax.jit(laser, static_argnames=("min_std", "singleton", "as_released"))
SCORES = jnp.array([[-13.0, -18.0, -23.0, -3.0]])  # self-rewards 1, 0.5, 0 and 1 (clipped)
FINISHED = jnp.array([[True, True, True, False]])
ONES = jnp.ones((1, 4, 1), bool)


def call(advantages, scores=SCORES, finished=FINISHED, valid=None, **hyper):
    step = hyper.pop("step", None)
    return np.asarray(LASER(advantages, scores, finished, ONES, valid, step, **hyper))[0, :, 0]


def test_hand_numbers():
    """Self-rewards 1, 0.5, 0 and, unfinished, 0: mean 3/8, and 0.9 A + 0.1 z."""
    z = (np.array([1, 0.5, 0, 0]) - 0.375) / np.std([1, 0.5, 0, 0], ddof=1)
    np.testing.assert_allclose(call(2 * jnp.ones((1, 4, 1))), 1.8 + 0.1 * z, rtol=1e-6)


def test_as_released_an_unfinished_completion_has_its_own_score_after_all():
    z = (np.array([1, 0.5, 0, 1]) - 0.375) / np.std([1, 0.5, 0, 0], ddof=1)
    np.testing.assert_allclose(call(jnp.zeros((1, 4, 1)), as_released=True), 0.1 * z, rtol=1e-6)


def test_scores_that_hardly_differ_leave_the_advantage():
    advantages = jnp.arange(4.0).reshape(1, 4, 1)
    near = jnp.array([[-18.0, -18.5, -18.0, -18.0]])
    everyone = jnp.ones((1, 4), bool)
    np.testing.assert_allclose(call(advantages, near, everyone), [0, 1, 2, 3], rtol=1e-6)
    assert not np.allclose(call(advantages, near, everyone, min_std=0.0), [0, 1, 2, 3])


def test_a_group_of_one_keeps_its_advantage_or_mixes_in_its_score():
    valid = jnp.array([[True, False, False, False]])
    advantages = jnp.full((1, 4, 1), jnp.nan).at[0, 0, 0].set(2.0)
    np.testing.assert_allclose(call(advantages, valid=valid), [2, 0, 0, 0], rtol=1e-6)
    np.testing.assert_allclose(call(advantages, valid=valid, singleton="raw"), [1.9, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(("step", "changes"), [(199, False), (200, True)])
def test_the_first_updates_change_nothing(step, changes):
    advantages = jnp.ones((1, 4, 1))
    assert np.array_equal(call(advantages, step=jnp.int32(step)), np.ones(4)) is not changes
