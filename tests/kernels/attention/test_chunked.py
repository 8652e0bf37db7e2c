import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels.attention import attention, tree_from_parents
from tests.kernels.attention.cases import random_trie, star_row
from tests.kernels.jaxpr_shapes import shapes


def unpacked(parents):
    """Gives the tokens of each path from a root to a leaf."""
    size = len(parents)
    leaves = [t for t in range(size) if parents[t] > -2 and t not in set(parents.tolist())]
    paths = []
    for leaf in leaves:
        path = []
        while leaf >= 0:
            path.append(leaf)
            leaf = parents[leaf]
        paths.append(path[::-1])
    return paths


def test_gradients_are_the_sum_over_unpacked_rows():
    parents = random_trie(np.random.default_rng(0), 64)
    paths = unpacked(parents)
    assert len(paths) > 5
    at = np.zeros((len(paths), 64), int)
    ids = np.full(at.shape, -1, np.int32)
    for row, path in enumerate(paths):
        at[row, : len(path)], ids[row, : len(path)] = path, 0
    w = jax.random.normal(jax.random.key(9), (*at.shape, 4, 8))
    w = jnp.where(jnp.asarray(ids >= 0)[..., None, None], w, 0)
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 64, n, 8)) for i, n in enumerate((4, 2, 2)))
    shared = jnp.zeros_like(q[0]).at[at].add(w)  # a shared token counts once for each row through it
    ends = jnp.asarray(tree_from_parents(parents).ends)[None]

    def over_rows(q, k, v):
        return jnp.sum(w * attention(*(x[0][at] for x in (q, k, v)), segments=jnp.asarray(ids), backend="xla"))

    def over_tree(q, k, v):
        return jnp.sum(shared[None] * attention(q, k, v, ends=ends, backend="chunked", block=(16, 16)))

    value, got = jax.jit(jax.value_and_grad(over_tree, (0, 1, 2)))(q, k, v)
    want, expected = jax.jit(jax.value_and_grad(over_rows, (0, 1, 2)))(q, k, v)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    for a, b in zip(got, expected, strict=True):
        assert np.linalg.norm(a - b) <= 1e-6 * np.linalg.norm(b)


def gradients(size, block=(128, 128)):
    shape = [jax.ShapeDtypeStruct((1, size, n, 16), jnp.float32) for n in (2, 1, 1)]
    ends = star_row(size // 2, size // 16, 8).ends

    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, ends=ends, backend="chunked", block=block))

    return jax.grad(loss, (0, 1, 2)), shape


def test_temporaries_are_linear_in_tokens():
    memory = []
    for size in (4096, 8192):
        run, shape = gradients(size)
        memory.append(jax.jit(run).lower(*shape).compile().memory_analysis().temp_size_in_bytes)
    assert memory[1] <= 2.2 * memory[0]
    assert memory[1] < 8192**2 / 2  # a mask of all pairs would be larger, in bits of any type


def test_nothing_is_as_large_as_the_scores():
    run, shape = gradients(1024, (32, 32))
    largest = max(int(np.prod(s)) for _, s in shapes(jax.make_jaxpr(run)(*shape)))
    assert largest <= 1024 * 1024 // 32  # one number a key and block of queries
