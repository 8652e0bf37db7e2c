import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.samplers import min_p
from tests.samplers.cases import LOGITS, first


# Shares of the largest probability: 1, 0.368, 0.368, 0.223, 0.050 (just under), 0.007.
@pytest.mark.parametrize(("m", "kept"), [(0.0, 6), (0.05, 4), (0.2, 4), (0.3, 3), (0.5, 1), (1.0, 1)])
def test_keeps_what_is_near_the_most_probable(m, kept):
    got = min_p(jnp.array([LOGITS]), jnp.array([m]))[0]
    np.testing.assert_array_equal(got, np.where(first(kept), LOGITS, -np.inf))
