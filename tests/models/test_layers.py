import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.models import layers
from jaxrl_tok.models.rope import Rope, turns


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def attend_one(q, keys, values):
    """One query head over the keys it sees, float64."""
    return softmax(np.array([q @ k for k in keys]) / np.sqrt(len(q))) @ np.array(values)


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_rms_norm_by_hand():
    got = layers.rms_norm(jnp.array([[3.0, 4.0]]), jnp.array([1.0, 2.0]), 0.0)
    np.testing.assert_allclose(got, np.array([[3.0, 8.0]]) / np.sqrt(12.5), rtol=1e-6)


def test_rms_norm_over_all_heads_and_with_an_offset():
    x = random(2, 3, 4)
    weight = random(3, 4, seed=1)
    want = x / np.sqrt((x**2).mean((1, 2), keepdims=True) + 0.5)
    arrays = jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32)
    np.testing.assert_allclose(layers.rms_norm(*arrays, 0.5), want * weight, rtol=1e-5)
    np.testing.assert_allclose(layers.rms_norm(*arrays, 0.5, offset=True), want * (1 + weight), rtol=1e-5)


def test_swiglu_by_hand():
    x, gate, up, down = (jnp.array(v, jnp.float32) for v in ([[2.0]], [[1.0]], [[3.0]], [[0.5]]))
    gate_up = jnp.stack([gate, up], axis=1)
    np.testing.assert_allclose(
        layers.mlp(x, {"gate_up": gate_up, "down": down}), [[2 / (1 + np.exp(-2)) * 6 * 0.5]], rtol=1e-6
    )


@pytest.mark.parametrize("length", [1, 3, 4])
def test_prompt_attention_is_causal_and_skips_the_padding(length):
    q, k, v = random(1, 4, 2, 2, 6), random(1, 4, 2, 6, seed=1), random(1, 4, 2, 6, seed=2)
    got = layers.prompt_attention(*(jnp.asarray(x, jnp.float32) for x in (q, k, v)), jnp.array([length]))
    for t in range(4 - length, 4):
        for n in range(4):
            seen = range(4 - length, t + 1)
            head = n // 2, n % 2
            want = attend_one(q[0, t][head], [k[0, u, n // 2] for u in seen], [v[0, u, n // 2] for u in seen])
            np.testing.assert_allclose(got[0, t][head], want, rtol=1e-4, atol=1e-5)


def completion_case():
    """One prompt of 2 tokens padded to 3, two completions of 3 tokens, 4 heads over 2."""
    own = random(1, 2, 3, 2, 2, 6), random(1, 2, 3, 2, 6, seed=1), random(1, 2, 3, 2, 6, seed=2)
    return *own, random(1, 3, 2, 6, seed=3), random(1, 3, 2, 6, seed=4)


def wanted(g, t, n):
    q, k, v, pk, pv = completion_case()
    keys = [pk[0, s, n // 2] for s in (1, 2)] + [k[0, g, u, n // 2] for u in range(t + 1)]
    values = [pv[0, s, n // 2] for s in (1, 2)] + [v[0, g, u, n // 2] for u in range(t + 1)]
    return attend_one(q[0, g, t, n // 2, n % 2], keys, values)


def test_completions_see_their_prompt_and_themselves():
    args = (jnp.asarray(x, jnp.float32) for x in completion_case())
    got = layers.completion_attention(*args, jnp.array([2]))
    for g in range(2):
        for t in range(3):
            for n in range(4):
                np.testing.assert_allclose(got[0, g, t, n // 2, n % 2], wanted(g, t, n), rtol=1e-4, atol=1e-5)


def test_one_decoded_token_sees_what_a_completion_token_sees():
    q, k, v, pk, pv = (jnp.asarray(x, jnp.float32) for x in completion_case())
    at = jnp.array([1, 2], jnp.int32)
    k, v, pk, pv = (x.swapaxes(-3, -2) for x in (k, v, pk, pv))
    both = [jnp.broadcast_to(x, (2, *x.shape[1:])) for x in (pk, pv)]
    prompt = layers.Shared(*both, jnp.array([1, 1], jnp.int32), jnp.array([3, 3], jnp.int32))
    got = layers.decode_attention(q[0][jnp.arange(2), at], k[0], v[0], at, [prompt])
    for g, t in ((0, 1), (1, 2)):
        for n in range(4):
            np.testing.assert_allclose(got[g, n // 2, n % 2], wanted(g, t, n), rtol=1e-4, atol=1e-5)


def over_one_prompt(q, k, v, at, prompt_k, prompt_v, lengths, how):
    """Attention over a prompt and what came before, with both parts written out."""
    q = q * jnp.asarray(q.shape[-1] ** -0.5 if how.scale is None else how.scale, q.dtype)
    own = jnp.einsum("BKMH,BKTH->BKMT", q, k, preferred_element_type=jnp.float32)
    shared = jnp.einsum("BKMH,BKSH->BKMS", q, prompt_k, preferred_element_type=jnp.float32)
    if how.soft_cap is not None:
        own, shared = (how.soft_cap * jnp.tanh(s / how.soft_cap) for s in (own, shared))
    size = prompt_k.shape[2]
    ago = at[:, None] - jnp.arange(k.shape[2])[None]
    own_seen, seen = ago >= 0, jnp.arange(size)[None] >= (size - lengths)[:, None]
    if how.window is not None:
        own_seen &= ago < how.window
        seen &= (at[:, None] + size - jnp.arange(size)[None]) < how.window
    own, shared = (jnp.where(m[:, None, None], s, layers.NEG) for m, s in ((own_seen, own), (seen, shared)))
    top = jnp.maximum(own.max(-1, keepdims=True), shared.max(-1, keepdims=True))
    own, shared = jnp.exp(own - top), jnp.exp(shared - top)
    total = own.sum(-1, keepdims=True) + shared.sum(-1, keepdims=True)
    own, shared = ((w / total).astype(v.dtype) for w in (own, shared))
    return jnp.einsum("BKMT,BKTH->BKMH", own, v) + jnp.einsum("BKMS,BKSH->BKMH", shared, prompt_v)


def decoded_case(dtype=jnp.float32):
    """Six slots with keys of their own and two shared parts of different spans."""
    shapes = ((6, 2, 2, 4), (6, 2, 5, 4), (6, 2, 5, 4), (6, 2, 7, 4), (6, 2, 7, 4), (6, 2, 8, 4), (6, 2, 8, 4))
    q, k, v, *rest = (jnp.asarray(random(*shape, seed=i), dtype) for i, shape in enumerate(shapes))
    # Within a window of 4 and without, of nothing in the middle and of much.
    at, first, start, end = jnp.array(
        [[0, 1, 0, 4, 2, 3], [5, 4, 3, 1, 2, 0], [4, 0, 7, 0, 5, 1], [5, 0, 8, 6, 7, 1]], jnp.int32
    )
    prompt = layers.Shared(*rest[:2], first, jnp.full(6, 7, jnp.int32))
    return q, k, v, at, prompt, layers.Shared(*rest[2:], start, end)


@pytest.mark.parametrize("how", [layers.Attention(), layers.Attention(0.3, 2.0, 4)], ids=["plain", "window"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_over_one_prompt_decoding_is_the_same_to_the_last_bit(how, dtype):
    q, k, v, at, prompt, _ = decoded_case(dtype)
    got = jax.jit(functools.partial(layers.decode_attention, how=how))(q, k, v, at, [prompt])
    want = jax.jit(over_one_prompt, static_argnums=7)(q, k, v, at, prompt.k, prompt.v, prompt.end - prompt.start, how)
    np.testing.assert_array_equal(np.asarray(got, np.float32), np.asarray(want, np.float32))


@pytest.mark.parametrize("how", [layers.Attention(), layers.Attention(0.3, 2.0, 4)], ids=["plain", "window"])
def test_levels_are_one_text(how):
    """What is seen of two shared parts and of the slot's own, laid end to end, in float64."""
    q, k, v, at, *shared = decoded_case()
    got = jax.jit(functools.partial(layers.decode_attention, how=how))(q, k, v, at, shared)
    own = layers.Shared(k, v, jnp.zeros_like(at), at + 1)
    parts = [jax.tree.map(np.asarray, part) for part in (*shared, own)]
    for b, head, m in np.ndindex(6, 2, 2):
        keys, values = (
            np.concatenate([x[i][b, head, x.start[b] : x.end[b]] for x in parts]).astype(float) for i in (0, 1)
        )
        scores = keys @ np.asarray(q, float)[b, head, m] * (how.scale or 4**-0.5)
        if how.soft_cap is not None:
            scores = how.soft_cap * np.tanh(scores / how.soft_cap)
        last = slice(None if how.window is None else -how.window, None)
        np.testing.assert_allclose(got[b, head, m], softmax(scores[last]) @ values[last], rtol=1e-5, atol=1e-6)


def separate_weights():
    shapes = {"q": (8, 4, 4), "k": (8, 2, 4), "v": (8, 2, 4), "o": (4, 4, 8), "gate": (8, 6), "up": (8, 6)}
    return {n: jnp.asarray(random(*shape, seed=i), jnp.float32) for i, (n, shape) in enumerate(shapes.items())}


def test_fused_products_are_those_of_the_separate_weights():
    x, w = jnp.asarray(random(2, 8), jnp.float32), separate_weights()
    fused = layers.fuse(w)
    assert set(fused) == {"qkv", "gate_up", "o"}
    np.testing.assert_array_equal(fused["o"], np.swapaxes(w["o"], 0, 1))
    q, k, v = layers.project(x, fused, turns(jnp.zeros(2, jnp.int32), 4, Rope(10.0)), 1e-6)
    for n in range(4):  # query head n serves with key/value head n // 2
        np.testing.assert_allclose(q[:, n // 2, n % 2], x @ w["q"][:, n], rtol=1e-4, atol=1e-5)
    for n in range(2):
        np.testing.assert_allclose(k[:, n], x @ w["k"][:, n], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(v[:, n], x @ w["v"][:, n], rtol=1e-4, atol=1e-5)
    down = jnp.asarray(random(6, 8), jnp.float32)
    gate, up = np.asarray(x @ w["gate"], np.float64), np.asarray(x @ w["up"], np.float64)
    want = gate / (1 + np.exp(-gate)) * up @ np.asarray(down)
    np.testing.assert_allclose(layers.mlp(x, {"gate_up": fused["gate_up"], "down": down}), want, rtol=1e-3, atol=1e-4)


def test_project_adds_biases_and_norms_where_the_weights_have_them():
    x, w = jnp.asarray(random(2, 8), jnp.float32), separate_weights()
    at, fused = turns(jnp.zeros(2, jnp.int32), 4, Rope(10.0)), layers.fuse(w)
    q, k, v = layers.project(x, fused, at, 1e-6)
    bias = {f"{n}_bias": jnp.asarray(random(*w[n].shape[1:], seed=7), jnp.float32) for n in "qkv"}
    shifted = layers.project(x, fused | bias, at, 1e-6)
    for n in range(4):
        moved = shifted[0][:, n // 2, n % 2] - q[:, n // 2, n % 2]
        np.testing.assert_allclose(moved, jnp.stack([bias["q_bias"][n]] * 2), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(shifted[1] - k, jnp.stack([bias["k_bias"]] * 2), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(shifted[2] - v, jnp.stack([bias["v_bias"]] * 2), rtol=1e-3, atol=1e-5)
    ones = {"q_norm": jnp.ones(4), "k_norm": jnp.ones(4)}
    normed = layers.project(x, fused | ones, at, 1e-6)
    np.testing.assert_allclose(np.mean(np.square(normed[0]), -1), 1, rtol=1e-4)
    np.testing.assert_array_equal(normed[2], v)


def test_gradients_are_finite_where_a_query_sees_only_padding():
    q = jnp.asarray(random(1, 3, 1, 2, 4), jnp.float32)
    k, v = (jnp.asarray(random(1, 3, 1, 4, seed=i), jnp.float32) for i in (1, 2))
    grads = jax.grad(lambda *a: layers.prompt_attention(*a, jnp.array([1])).sum(), (0, 1, 2))(q, k, v)
    assert all(np.isfinite(g).all() for g in grads)
