import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels.attention import Prefix, attention
from tests.kernels.attention.cases import star_row


def test_a_packed_star_is_a_prefix_with_its_branches():
    prompt, branch, count = 12, 7, 3
    ends = star_row(prompt, branch, count).ends
    q, k, v, w = (jax.random.normal(jax.random.key(i), (1, 33, n, 8)) for i, n in enumerate((4, 2, 2, 4)))

    def packed(q, k, v):
        return attention(q, k, v, ends=ends, backend="xla")

    def apart(q, k, v):
        before, after = ([x[:, s] for x in (q, k, v)] for s in (slice(prompt), slice(prompt, None)))
        rows = [x.reshape(count, branch, *x.shape[2:]) for x in after]
        prefix = Prefix(before[1], before[2], jnp.ones((1, prompt), bool))
        o = attention(*rows, prefix=prefix, backend="shared_prefix", block=(8, 8))
        return jnp.concatenate([attention(*before, backend="xla"), o.reshape(1, -1, *o.shape[2:])], axis=1)

    def both(f):
        o, pull = jax.vjp(f, q, k, v)
        return o, *pull(w)

    for got, want in zip(*jax.jit(lambda: (both(apart), both(packed)))(), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-6)
