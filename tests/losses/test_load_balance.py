import jax.numpy as jnp
import numpy as np

from jaxrl_tok.losses import load_balance


def test_it_is_the_models_number_where_a_completion_is_valid():
    balance, valid = jnp.array([1.0, 2.5, jnp.nan]), jnp.array([True, True, False])
    np.testing.assert_array_equal(load_balance(balance, valid), [1.0, 2.5, 0.0])
