import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.advantages import spo_whiten
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import assemble, mesh
from tests.oracles import structures as oracle

NAMES = "advantages", "old_logprobs", "mask", "valid"
WHITEN = jax.jit(spo_whiten, static_argnames=("threshold", "skip_zero"))


def given(seed):
    fields = assemble(seed)
    return [fields[name] for name in NAMES]


def test_hand_numbers():
    """1 and 3 are uncertain: mean 2, variance 2. The certain 6 is shifted and scaled with them."""
    arrays = jnp.array([[[1.0, 3.0, 6.0]]]), jnp.log(jnp.array([[[0.5, 0.1, 0.99]]]))
    result = WHITEN(*arrays, jnp.ones((1, 1, 3), bool))
    np.testing.assert_allclose(result[0, 0], np.array([-1, 1, 4]) / 2**0.5, rtol=1e-6)


def test_a_token_of_two_completions_counts_once():
    """The first token is one sample: with the two others the mean is 2 and the variance 1, as if it stood once."""
    arrays = jnp.array([[[1.0, 2.0], [1.0, 3.0]]]), jnp.full((1, 2, 2), -1.0), jnp.ones((1, 2, 2), bool)
    result = WHITEN(*arrays, None, jnp.array([[[2.0, 1.0], [2.0, 1.0]]]))
    np.testing.assert_allclose(result, [[[-1, 0], [-1, 1]]], atol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 2.0])
def test_oracle(threshold):
    arrays = given(0)
    advantages, logprobs, mask, valid = (np.asarray(x, np.float64 if x.ndim == 3 else bool) for x in arrays)
    mask = (mask > 0) & valid[:, :, None]
    expected = oracle.whiten(advantages, mask & (np.exp(logprobs) < threshold), mask)
    np.testing.assert_allclose(WHITEN(*arrays, threshold=threshold), expected, rtol=1e-4, atol=1e-5)


def test_with_no_uncertain_token_it_is_over_all():
    advantages, _, mask, valid = given(1)
    np.testing.assert_allclose(
        WHITEN(advantages, jnp.full(mask.shape, -1e-3), mask, valid),
        WHITEN(advantages, jnp.full(mask.shape, -9.0), mask, valid),
        rtol=1e-5,
    )


def test_tokens_of_advantage_zero_can_be_left_out():
    advantages = jnp.array([[[0.0, 1.0, 2.0]]])
    arrays = jnp.full((1, 1, 3), -1.0), jnp.ones((1, 1, 3), bool)
    np.testing.assert_allclose(WHITEN(advantages, *arrays)[0, 0], [-1, 0, 1], atol=1e-6)
    result = WHITEN(advantages, *arrays, skip_zero=True)[0, 0]
    np.testing.assert_allclose(result, [0, -(0.5**0.5), 0.5**0.5], rtol=1e-6)


def test_equal_advantages_give_exactly_zero():
    arrays = jnp.full((2, 3, 5), 0.9), jnp.full((2, 3, 5), -1.0), jnp.ones((2, 3, 5), bool)
    np.testing.assert_array_equal(WHITEN(*arrays), np.zeros((2, 3, 5)))


def test_in_shard_map_the_statistics_are_those_of_all_shards():
    arrays, spec = given(2), PartitionSpec("data")
    for axis_name, same in (("data", True), (None, False)):
        local = jax.shard_map(
            functools.partial(spo_whiten, axis_name=axis_name), mesh=mesh(), in_specs=spec, out_specs=spec
        )
        assert np.allclose(jax.jit(local)(*arrays), WHITEN(*arrays), atol=1e-5) == same


def test_threshold_must_be_positive():
    with pytest.raises(ConfigError, match=r"threshold = -0\.1 must be above 0"):
        spo_whiten(*given(0), threshold=-0.1)
