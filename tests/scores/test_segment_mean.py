import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import segment_mean
from tests.oracles import objectives as oracle

MEAN = jax.jit(segment_mean, static_argnames="items")


def test_hand_numbers():
    x = jnp.array([[1.0, 3.0, jnp.nan, 5.0, 7.0]])
    ids, mask = jnp.array([[1, 0, 0, 1, -1]]), jnp.array([[True, True, False, True, True]])
    np.testing.assert_array_equal(MEAN(x, ids, mask), [[3, 3, 0, 3, 7]])
    np.testing.assert_array_equal(MEAN(x, ids + 5, mask, items=1), [[4, 4, 0, 4, 4]])


def test_oracle_and_gradient():
    rng = np.random.default_rng(1)
    x, ids = rng.normal(size=(5, 8)).astype(np.float32), rng.integers(-1, 8, (5, 8)).astype(np.int32)
    mask = rng.random((5, 8)) < 0.7
    mask[2] = False
    arrays = jnp.asarray(x), jnp.asarray(ids), jnp.asarray(mask)
    np.testing.assert_allclose(MEAN(*arrays), oracle.segment_mean(x, ids, mask), rtol=1e-5, atol=1e-6)
    spoilt = jnp.where(arrays[2], x, jnp.nan), jnp.where(arrays[2], ids, 99), arrays[2]
    np.testing.assert_array_equal(MEAN(*spoilt), MEAN(*arrays))
    grads = jax.jit(jax.grad(lambda x: jnp.sum(segment_mean(x, *spoilt[1:]))))(spoilt[0])
    np.testing.assert_allclose(grads, np.where(mask, 1.0, 0.0), rtol=1e-6)  # means keep the sum
