import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels.attention.common import Options
from jaxrl_tok.kernels.attention.spans import prefix_spans
from jaxrl_tok.kernels.attention.vjp import flash

QUERIES, KEYS = 20, 27
MASK = np.arange(KEYS)[None] % 3 > 0


def plain(q, k, v):
    """Means and normalisers of one head over the keys that are there, for JAX to differentiate."""
    s = jnp.where(MASK[:, None, None], jnp.einsum("btnh,bunh->bntu", q, k), -jnp.inf)
    lse = jax.nn.logsumexp(s, axis=-1)
    return jnp.einsum("bntu,bunh->btnh", jnp.exp(s - lse[..., None]), v), lse.swapaxes(1, 2)


@pytest.mark.parametrize(("backend", "interpret"), [("chunked", False), ("pallas_tpu", True)])
def test_cotangents_of_means_and_normalisers(backend, interpret):
    q, w = (jax.random.normal(jax.random.key(i), (1, QUERIES, 1, 8)) * 0.5 for i in range(2))
    k, v = (jax.random.normal(jax.random.key(i), (1, KEYS, 1, 8)) * 0.5 for i in range(2, 4))
    options = Options(1.0, block=(8, 8), interpret=interpret)

    @jax.jit
    def both(cotangents):
        spans = prefix_spans(jnp.asarray(MASK), QUERIES, jnp.zeros((1, QUERIES), jnp.int32), None)
        results = []
        for f in (lambda q, k, v: flash(backend, options, q, k, v, spans), plain):
            value, pull = jax.vjp(f, q, k, v)
            results.append((*value, *pull(cotangents)))
        return results

    for cotangents in ((w, w[..., 0]), (0 * w, w[..., 0])):
        for got, want in zip(*both(cotangents), strict=True):
            np.testing.assert_allclose(got, want, atol=3e-6)
