import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.samplers import top_k
from tests.samplers.cases import LOGITS, first


# k = 2 keeps both tokens that tie for the second place.
@pytest.mark.parametrize(("k", "kept"), [(0, 6), (1, 1), (2, 3), (3, 3), (4, 4), (6, 6), (9, 6)])
def test_keeps_the_k_largest_and_what_ties_with_the_last(k, kept):
    got = top_k(jnp.array([LOGITS]), jnp.array([k], jnp.int32))[0]
    np.testing.assert_array_equal(got, np.where(first(kept), LOGITS, -np.inf))


def test_each_row_has_its_own_k():
    order = jnp.array([5, 1, 3, 0, 4, 2])
    got = top_k(jnp.array([LOGITS])[:, order].repeat(2, axis=0), jnp.array([1, 4], jnp.int32))
    np.testing.assert_array_equal(got > -jnp.inf, [np.array(first(1))[order], np.array(first(4))[order]])
