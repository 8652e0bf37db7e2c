"""The pieces of a decoder layer as functions of arrays.

Axes in einsums: P prompts, G completions of a prompt, S prompt positions, T query positions, U key positions,
B slots, D model, K key/value heads, M query heads of one key/value head, H head size, F feed-forward, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

# Finite, so that a row that sees no key gives a mean of its keys instead of NaN.
NEG = -1e30


def rms_norm(x: Float[Array, "*B D"], weight: Float[Array, " D"], eps: float) -> Float[Array, "*B D"]:
    """Returns x / sqrt(mean(x^2) + eps) * weight, computed in float32. Zhang & Sennrich 2019, arXiv 1910.07467."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.float32(eps))
    return y.astype(x.dtype) * _like(weight.astype(x.dtype), x)


def rope(
    x: Float[Array, "*B N H"], positions: Int[Array, "*B"], theta: float
) -> Float[Array, "*B N H"]:
    """Rotates pairs (i, i + H/2) by position * theta^(-2i/H), the halves layout. Su et al. 2021, arXiv 2104.09864.

    Angles are float32: bfloat16 rounds 257 to 256.
    """
    half = x.shape[-1] // 2
    frequency = jnp.float32(theta) ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions.astype(jnp.float32)[..., None, None] * _like(frequency, positions[..., None, None])
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def swiglu(
    x: Float[Array, "*B D"], gate: Float[Array, "D F"], up: Float[Array, "D F"], down: Float[Array, "F D"]
) -> Float[Array, "*B D"]:
    """Returns (silu(x gate) * (x up)) down. Shazeer 2020, arXiv 2002.05202."""
    h = jax.nn.silu(jnp.einsum("...D,DF->...F", x, gate)) * jnp.einsum("...D,DF->...F", x, up)
    return jnp.einsum("...F,FD->...D", h, down)


def project(
    x: Float[Array, "*B D"], weights: dict[str, Any], positions: Int[Array, "*B"], *, theta: float, eps: float
) -> tuple[Float[Array, "*B N H"], Float[Array, "*B K H"], Float[Array, "*B K H"]]:
    """Returns queries, keys and values, with biases, QK-norm and rotation where the weights have them."""
    q = jnp.einsum("...D,DNH->...NH", x, weights["q"])
    k = jnp.einsum("...D,DNH->...NH", x, weights["k"])
    v = jnp.einsum("...D,DNH->...NH", x, weights["v"])
    if "q_bias" in weights:
        q, k, v = (y + _like(weights[f"{n}_bias"], y) for y, n in ((q, "q"), (k, "k"), (v, "v")))
    if "q_norm" in weights:
        q, k = rms_norm(q, weights["q_norm"], eps), rms_norm(k, weights["k_norm"], eps)
    return rope(q, positions, theta), rope(k, positions, theta), v


def prompt_attention(
    q: Float[Array, "P S N H"],
    k: Float[Array, "P S K H"],
    v: Float[Array, "P S K H"],
    lengths: Int[Array, " P"],
) -> Float[Array, "P S N H"]:
    """Causal attention over left-padded prompts. Rows of padding give numbers that nothing reads."""
    q = _by_kv_head(q, k.shape[-2])
    size = q.shape[1]
    scores = jnp.einsum("PTKMH,PUKH->PKMTU", q, k, preferred_element_type=jnp.float32)
    at = jnp.arange(size)
    seen = (at[None, :] <= at[:, None])[None] & (at[None, None, :] >= (size - lengths)[:, None, None])
    weights = _softmax([jnp.where(seen[:, None, None], scores, NEG)])[0].astype(v.dtype)
    return _merge_heads(jnp.einsum("PKMTU,PUKH->PTKMH", weights, v))


def completion_attention(
    q: Float[Array, "P G T N H"],
    k: Float[Array, "P G T K H"],
    v: Float[Array, "P G T K H"],
    prompt_k: Float[Array, "P S K H"],
    prompt_v: Float[Array, "P S K H"],
    lengths: Int[Array, " P"],
) -> Float[Array, "P G T N H"]:
    """Causal attention of completions over themselves and over the prompt that their group shares."""
    q = _by_kv_head(q, k.shape[-2])
    own = jnp.einsum("PGTKMH,PGUKH->PGKMTU", q, k, preferred_element_type=jnp.float32)
    shared = jnp.einsum("PGTKMH,PSKH->PGKMTS", q, prompt_k, preferred_element_type=jnp.float32)
    at = jnp.arange(q.shape[2])
    own = jnp.where((at[None, :] <= at[:, None])[None, None, None, None], own, NEG)
    shared = jnp.where(_prompt_seen(prompt_k.shape[1], lengths)[:, None, None, None, None], shared, NEG)
    own, shared = (w.astype(v.dtype) for w in _softmax([own, shared]))
    out = jnp.einsum("PGKMTU,PGUKH->PGTKMH", own, v) + jnp.einsum("PGKMTS,PSKH->PGTKMH", shared, prompt_v)
    return _merge_heads(out)


def decode_attention(
    q: Float[Array, "B N H"],
    k: Float[Array, "B T K H"],
    v: Float[Array, "B T K H"],
    at: Int[Array, " B"],
    prompt_k: Float[Array, "B S K H"],
    prompt_v: Float[Array, "B S K H"],
    lengths: Int[Array, " B"],
) -> Float[Array, "B N H"]:
    """Attention of one new token a slot, number `at` of its completion, over the prompt and what came before."""
    q = _by_kv_head(q, k.shape[-2])
    own = jnp.einsum("BKMH,BTKH->BKMT", q, k, preferred_element_type=jnp.float32)
    shared = jnp.einsum("BKMH,BSKH->BKMS", q, prompt_k, preferred_element_type=jnp.float32)
    own = jnp.where((jnp.arange(k.shape[1])[None] <= at[:, None])[:, None, None], own, NEG)
    shared = jnp.where(_prompt_seen(prompt_k.shape[1], lengths)[:, None, None], shared, NEG)
    own, shared = (w.astype(v.dtype) for w in _softmax([own, shared]))
    return _merge_heads(jnp.einsum("BKMT,BTKH->BKMH", own, v) + jnp.einsum("BKMS,BSKH->BKMH", shared, prompt_v))


def _prompt_seen(size: int, lengths: Int[Array, " B"]) -> Bool[Array, "B S"]:
    return jnp.arange(size)[None] >= (size - lengths)[:, None]


def _by_kv_head(q: Float[Array, "*B N H"], kv_heads: int) -> Float[Array, "*B K M H"]:
    """Groups query heads by the key/value head they share, and scales them by 1/sqrt(H)."""
    *batch, heads, size = q.shape
    return (q * jnp.asarray(size**-0.5, q.dtype)).reshape(*batch, kv_heads, heads // kv_heads, size)


def _merge_heads(x: Float[Array, "*B K M H"]) -> Float[Array, "*B N H"]:
    return x.reshape(*x.shape[:-3], x.shape[-3] * x.shape[-2], x.shape[-1])


def _softmax(parts: list[Array]) -> list[Array]:
    """Softmax over the last axes of several arrays together, without joining them."""
    top = parts[0].max(-1, keepdims=True)
    for part in parts[1:]:
        top = jnp.maximum(top, part.max(-1, keepdims=True))
    top = jax.lax.stop_gradient(top)
    parts = [jnp.exp(part - top) for part in parts]
    total = sum((part.sum(-1, keepdims=True) for part in parts[1:]), parts[0].sum(-1, keepdims=True))
    return [part / total for part in parts]


def _like(weight: Array, x: Array) -> Array:
    """Gives `weight` the rank of `x` by leading axes of 1."""
    return weight.reshape((1,) * (x.ndim - weight.ndim) + weight.shape)
