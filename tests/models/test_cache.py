import jax.numpy as jnp
import numpy as np

from jaxrl_tok.models import KVCache


def test_write_puts_one_entry_a_row_in_one_layer():
    cache = KVCache.empty(2, 3, 4, 1, 2, "float32")
    k = jnp.arange(6, dtype=jnp.float32).reshape(3, 1, 2) + 1
    at = jnp.array([0, 3, 1], jnp.int32)
    new = cache.write(jnp.int32(1), at, k, -k)
    expected = np.zeros((2, 3, 4, 1, 2))
    for row, where in enumerate((0, 3, 1)):
        expected[1, row, where] = k[row]
    np.testing.assert_array_equal(new.k, expected)
    np.testing.assert_array_equal(new.v, -expected)
    np.testing.assert_array_equal(new.layer(jnp.int32(1))[0], expected[1])
