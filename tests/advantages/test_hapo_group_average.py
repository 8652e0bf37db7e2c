import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import grpo, hapo_group_average
from tests.conformance.fields import assemble, spoil

HAPO = jax.jit(hapo_group_average, static_argnames=("limit", "as_released"))
READS = ("rewards", "mask", "valid")


def lengths(*n, width=None):
    width = max(n) if width is None else width
    return jnp.arange(width)[None, None] < jnp.array(n)[None, :, None]


def test_hand_numbers():
    """Reward 1 on 1 token of 4: mean 1/4, deviation sqrt(3) / 4, so sqrt(3) and -1 / sqrt(3)."""
    result = HAPO(jnp.array([[1.0, 0.0]]), lengths(1, 3))
    np.testing.assert_allclose(result[0, :, 0], [3**0.5, -(3**-0.5)], rtol=1e-5)
    assert np.asarray(result).sum() == pytest.approx(0, abs=1e-5)


def test_oracle():
    for seed in range(3):
        fields = assemble(seed)
        rewards, mask, valid = (np.asarray(fields[name], np.float64) for name in READS)
        tokens = np.where(mask * valid[:, :, None] > 0, rewards[:, :, None], np.nan)
        expected = np.zeros(mask.shape)
        for p in range(len(rewards)):
            group = tokens[p][~np.isnan(tokens[p])]
            if len(set(group)) > 1:
                expected[p] = np.nan_to_num((tokens[p] - group.mean()) / (group.std() + 1e-6))
        np.testing.assert_allclose(
            hapo_group_average(*(spoil(fields)[n] for n in READS)), expected, rtol=1e-5, atol=1e-6
        )


def test_far_values_send_the_whole_group_to_grpo():
    """One token of 101: sqrt(100) = 10 is beyond 5."""
    rewards, mask = jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.concatenate([lengths(1, 100), lengths(3, 4, width=100)])
    result = HAPO(rewards, mask)
    np.testing.assert_array_equal(result[0], grpo(rewards, mask)[0])
    assert not np.allclose(result[1, 0, 0], grpo(rewards, mask)[1, 0, 0], atol=0.01)
    np.testing.assert_allclose(HAPO(rewards, mask, limit=11.0)[0, 0, 0], 10, rtol=1e-4)


def test_as_released_padding_takes_part_in_the_check():
    """Rewards 9 and 10 of as many tokens: -1 and 1, but a reward of 0 would be at -19."""
    rewards = jnp.array([[9.0, 10.0]])
    full, padded = lengths(2, 2), lengths(2, 2, width=3)
    for as_released in (False, True):
        result = HAPO(rewards, full, as_released=as_released)
        np.testing.assert_allclose(result[0, :, 0], [-1, 1], rtol=1e-5)
    np.testing.assert_allclose(HAPO(rewards, padded)[0, :, 0], [-1, 1], rtol=1e-5)
    result = HAPO(rewards, padded, as_released=True)
    np.testing.assert_array_equal(result, grpo(rewards, padded))
