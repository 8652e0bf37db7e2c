import jax.numpy as jnp
import numpy as np

from jaxrl_tok.token_weights import uniform


def test_one_where_trained():
    np.testing.assert_array_equal(uniform(jnp.array([[[True, False]]])), [[[1.0, 0.0]]])
