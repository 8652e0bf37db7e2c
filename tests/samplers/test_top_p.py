import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.samplers import top_p
from tests.samplers.cases import LOGITS, PROBABILITIES, first


# Mass before each token: 0, 0.496, 0.679, 0.861, 0.972, 0.997. At 0.5 the last kept token ties with the next
# one, which is kept too.
@pytest.mark.parametrize(("p", "kept"), [(0.1, 1), (0.5, 3), (0.7, 3), (0.9, 4), (0.98, 5), (0.999, 6), (1.0, 6)])
def test_keeps_the_nucleus_and_what_ties_with_its_last(p, kept):
    got = top_p(jnp.array([LOGITS]), jnp.array([p]))[0]
    np.testing.assert_array_equal(got, np.where(first(kept), LOGITS, -np.inf))
    assert PROBABILITIES[:kept].sum() >= p - 1e-12


def test_tokens_already_dropped_stay_dropped():
    got = top_p(jnp.array([[1.0, -jnp.inf, 1.0, 0.0]]), jnp.array([0.99]))[0]
    np.testing.assert_array_equal(got, [1.0, -np.inf, 1.0, 0.0])
