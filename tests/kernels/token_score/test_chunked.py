import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.kernels.token_score import block_sizes, chunked
from jaxrl_tok.kernels.token_score.common import Coefficients, Options, Rows, merge
from tests.kernels.token_score.cases import Case


def problem(tokens=26):
    hidden, head, targets, inv_temperature, cotangents = Case(tokens=tokens, ignored="none").arrays()
    rows = Rows(jnp.float32(hidden), jnp.asarray(targets), jnp.asarray(inv_temperature), jnp.full(tokens, -1.0))
    coefficients = Coefficients(jnp.full(tokens, 3.0), jnp.full(tokens, 2.0), *jnp.asarray(cotangents))
    return rows, jnp.float32(head), coefficients


def test_rows_in_tiles_give_the_same(monkeypatch):
    rows, head, coefficients = problem()
    options = Options("dv", None, True, 101)

    def both(rows, head, coefficients):
        without_head = chunked.backward(rows, head, coefficients, options._replace(head_grad=False))
        return (
            chunked.forward(rows, head, options),
            chunked.backward(rows, head, coefficients, options),
            without_head,
        )

    whole = jax.jit(both)(rows, head, coefficients)
    # 26 rows by 101 columns in 7 tiles of 4 rows, the last ones padded.
    monkeypatch.setattr(block_sizes, "CHUNKED_LOGITS", 400)
    assert chunked.blocking(len(rows.targets), head, options) == (101, 7)
    tiled = jax.jit(lambda *a: both(*a))(rows, head, coefficients)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), tiled, whole)
    assert tiled[2][1] is None


def test_tiles_bound_the_logits_held(monkeypatch):
    rows, head, coefficients = problem()
    monkeypatch.setattr(block_sizes, "CHUNKED_LOGITS", 160)
    options = Options("dv", None, True, 40)
    text = str(jax.make_jaxpr(lambda *a: chunked.backward(*a, options))(rows, head, coefficients))
    assert "f32[4,40]" in text
    assert "f32[26,40]" not in text
    assert "f32[28,40]" not in text


def test_sums_merge_in_any_order():
    rows, head, _ = problem()
    options = Options("dv", None, True, 101)

    @jax.jit
    def all_ways(rows, head):
        def part(start, stop):
            shifted = rows._replace(targets=rows.targets - start)
            return chunked.forward(shifted, head[:, start:stop], options)

        parts = [part(0, 7), part(7, 60), part(60, 101)]
        left = merge(merge(parts[0], parts[1]), parts[2])
        right = merge(parts[2], merge(parts[1], parts[0]))
        return chunked.forward(rows, head, options), left, right

    whole, left, right = all_ways(rows, head)
    for merged in (left, right):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-5), merged, whole)


def test_holds_one_block_of_logits():
    tokens, size, vocabulary, block = 256, 16, 4099, 128
    options = Options("dv", None, True, block)
    rows = Rows(
        hidden=jax.ShapeDtypeStruct((tokens, size), jnp.float32),
        targets=jax.ShapeDtypeStruct((tokens,), jnp.int32),
        inv_temperature=jax.ShapeDtypeStruct((tokens,), jnp.float32),
        cut=None,
    )
    head = jax.ShapeDtypeStruct((size, vocabulary), jnp.float32)
    vector = jax.ShapeDtypeStruct((tokens,), jnp.float32)
    coefficients = Coefficients(*[vector] * 5)
    backward = jax.jit(lambda *a: chunked.backward(*a, options)).lower(rows, head, coefficients).compile()
    # Logits, their gradient, and the small rest: 3 blocks of [N, block]; all logits would be 32.
    assert backward.memory_analysis().temp_size_in_bytes <= 3 * 4 * tokens * block
