import jax.numpy as jnp
import numpy as np

from jaxrl_tok.models import KVCache


def test_write_puts_one_entry_a_row():
    cache = KVCache.empty(3, 2, 4, 5, "float32")
    k = jnp.arange(30, dtype=jnp.float32).reshape(3, 2, 5) + 1
    new = cache.write(jnp.array([0, 3, 1], jnp.int32), k, -k)
    expected = np.zeros((3, 2, 4, 5))
    for row, where in enumerate((0, 3, 1)):
        for head in range(2):
            expected[row, head, where] = k[row, head]
    np.testing.assert_array_equal(new.k, expected)
    np.testing.assert_array_equal(new.v, -expected)
    np.testing.assert_array_equal(new.rows(jnp.array([2, 0, 2])).k, expected[[2, 0, 2]])
