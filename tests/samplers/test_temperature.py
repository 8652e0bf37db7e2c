import jax.numpy as jnp
import numpy as np

from jaxrl_tok.samplers import temperature
from tests.samplers.cases import LOGITS


def test_divides_the_logits_and_leaves_greedy_rows():
    got = temperature(jnp.array([LOGITS] * 3), jnp.array([0.5, 2.0, 0.0]))
    np.testing.assert_allclose(got, [np.multiply(LOGITS, 2), np.multiply(LOGITS, 0.5), LOGITS], rtol=1e-6)
