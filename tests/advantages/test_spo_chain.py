import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import spo_chain
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "old_logprobs", "segment_ids", "state_values", "mask", "valid"
CHAIN = jax.jit(spo_chain, static_argnames="threshold")


def test_hand_numbers():
    """Values 4/8 and 6/8 before two segments, wrong in the end; the second token of the first one was certain."""
    logprobs = jnp.log(jnp.array([[[0.95, 0.5, 0.95, 0.5, 0.9]]]))
    arrays = jnp.zeros((1, 1)), logprobs, jnp.array([[[-1, 0, 0, 1, 1]]]), jnp.array([[[0.5, 0.75, 7.0]]])
    result = CHAIN(*arrays, jnp.ones((1, 1, 5), bool))
    np.testing.assert_array_equal(result[0, 0], [0, 0.25, 0, -0.75, -0.75])  # 0.9 is not above the threshold


def test_a_masked_token_inside_a_segment_gets_zero():
    arrays = jnp.full((1, 1, 3), -1.0), jnp.array([[[0, 0, 1]]]), jnp.array([[[0.5, 0.75, 7.0]]])
    result = CHAIN(jnp.zeros((1, 1)), *arrays, jnp.array([[[True, False, True]]]))
    np.testing.assert_array_equal(result[0, 0], [0.25, 0, -0.75])


def test_without_a_known_value_before_it_a_segment_gets_zero():
    ids, mask = jnp.array([[[0, 1, 2]]]), jnp.ones((1, 1, 3), bool)
    values = jnp.array([[[jnp.nan, 0.5, jnp.nan, 0.0]]])
    result = CHAIN(jnp.ones((1, 1)), jnp.full((1, 1, 3), -1.0), ids, values, mask)
    np.testing.assert_array_equal(result[0, 0], [0, 0.5, 0.5])  # the last two are one segment


@pytest.mark.parametrize("threshold", [0.4, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, threshold):
    fields = assemble(seed)
    arrays = [fields[name] for name in NAMES]
    expected = oracle.spo_chain(*map(np.asarray, arrays), threshold=threshold)
    np.testing.assert_allclose(CHAIN(*arrays, threshold=threshold), expected, rtol=1e-5, atol=1e-6)


def test_a_probability_at_the_threshold_is_neither_zeroed_nor_trained():
    """`probability_mask` and the statistics of `spo_whiten` leave it out."""
    arrays = jnp.ones((1, 1)), jnp.full((1, 1, 1), math.log(0.9)), jnp.zeros((1, 1, 1), jnp.int32), jnp.zeros((1, 1, 2))
    assert CHAIN(*arrays, jnp.ones((1, 1, 1), bool)) == 1


def test_threshold_must_be_positive():
    fields = assemble(0)
    with pytest.raises(ConfigError, match=r"threshold = 0\.0 must be above 0"):
        spo_chain(*(fields[name] for name in NAMES), threshold=0.0)
