"""The pieces of a decoder layer as functions of arrays.

Axes in einsums: P prompts, G completions of a prompt, S prompt positions, T query positions, U key positions,
B slots, D model, K key/value heads, M query heads of one key/value head, H head size, F feed-forward, V vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.kernels import Prefix, attention

# Finite, so that a row that sees no key gives a mean of its keys instead of NaN.
NEG = -1e30


def rms_norm(x: Float[Array, "*B D"], weight: Float[Array, " D"], eps: float) -> Float[Array, "*B D"]:
    """Returns x / sqrt(mean(x^2) + eps) * weight, computed in float32. Zhang & Sennrich 2019, arXiv 1910.07467."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + jnp.float32(eps))
    return y.astype(x.dtype) * _like(weight.astype(x.dtype), x)


def turns(positions: Int[Array, "*B"], size: int, theta: float) -> Float[Array, "*B 2 H"]:
    """Returns cosine and sine of position * theta^(-2i/size), for i < size/2: what `rope` turns pair i by.

    Computed once for all layers: the two functions are long programs on a CPU. Angles are float32: bfloat16
    rounds 257 to 256.
    """
    frequency = jnp.float32(theta) ** (-jnp.arange(size // 2, dtype=jnp.float32) / (size // 2))
    angle = positions.astype(jnp.float32)[..., None]
    angle = angle * _like(frequency, angle)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-2)


def rope(x: Float[Array, "*B H"], turns: Float[Array, "*P 2 J"]) -> Float[Array, "*B H"]:
    """Rotates pairs (i, i + H/2), the halves layout. Su et al. 2021, arXiv 2104.09864.

    `turns` has the leading axes of `x`; those it lacks are heads.
    """
    heads = x.ndim - turns.ndim + 1
    cos, sin = (turns[..., i, :].reshape(*turns.shape[:-2], *(1,) * heads, -1) for i in (0, 1))
    a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)


def fuse(weights: dict[str, Any]) -> dict[str, Any]:
    """Joins what multiplies the same input, so that one large product takes the place of several small ones.

    `q`, `k`, `v` become `qkv [D, K, M + 2, H]`, `gate` and `up` become `gate_up [D, 2, F]`: joined along axes
    that are never sharded, so that taking the parts of a product moves nothing between devices.
    """
    q, k, v = (weights[name] for name in "qkv")
    q = q.reshape(q.shape[0], k.shape[1], -1, k.shape[2])
    joined = {"q", "k", "v", "gate", "up"}
    return {name: w for name, w in weights.items() if name not in joined} | {
        "qkv": jnp.concatenate([q, k[:, :, None], v[:, :, None]], axis=2),
        "gate_up": jnp.stack([weights["gate"], weights["up"]], axis=1),
    }


def swiglu(x: Float[Array, "*B D"], gate_up: Float[Array, "D 2 F"], down: Float[Array, "F D"]) -> Float[Array, "*B D"]:
    """Returns (silu(x gate) * (x up)) down. Shazeer 2020, arXiv 2002.05202."""
    h = jnp.einsum("...D,DCF->...CF", x, gate_up)
    return jnp.einsum("...F,FD->...D", jax.nn.silu(h[..., 0, :]) * h[..., 1, :], down)


def project(
    x: Float[Array, "*B D"], weights: dict[str, Any], turns: Float[Array, "*B 2 J"], eps: float
) -> tuple[Float[Array, "*B K M H"], Float[Array, "*B K H"], Float[Array, "*B K H"]]:
    """Returns queries by the key/value head they share, keys and values, of fused weights.

    With biases and QK-norm where the weights have them.
    """
    qkv = jnp.einsum("...D,DKCH->...KCH", x, weights["qkv"])
    q, k, v = qkv[..., :-2, :], qkv[..., -2, :], qkv[..., -1, :]
    if "q_bias" in weights:
        q = q + _like(weights["q_bias"].reshape(q.shape[-3:]), q)
        k, v = (y + _like(weights[f"{n}_bias"], y) for y, n in ((k, "k"), (v, "v")))
    if "q_norm" in weights:
        q, k = rms_norm(q, weights["q_norm"], eps), rms_norm(k, weights["k_norm"], eps)
    return rope(q, turns), rope(k, turns), v


def prompt_attention(
    q: Float[Array, "P S K M H"],
    k: Float[Array, "P S K H"],
    v: Float[Array, "P S K H"],
    lengths: Int[Array, " P"],
) -> Float[Array, "P S K M H"]:
    """Causal attention over left-padded prompts, 0 at their padding."""
    segments = jnp.where(_prompt_seen(q.shape[1], lengths), 0, -1)
    return attention(q.reshape(*q.shape[:2], -1, q.shape[-1]), k, v, segments=segments).reshape(q.shape)


def completion_attention(
    q: Float[Array, "P G T K M H"],
    k: Float[Array, "P G T K H"],
    v: Float[Array, "P G T K H"],
    prompt_k: Float[Array, "P S K H"],
    prompt_v: Float[Array, "P S K H"],
    lengths: Int[Array, " P"],
) -> Float[Array, "P G T K M H"]:
    """Causal attention of completions over themselves and over the prompt that their group shares."""
    prefix = Prefix(prompt_k, prompt_v, _prompt_seen(prompt_k.shape[1], lengths))
    rows, size = q.shape[0] * q.shape[1], q.shape[2]
    k, v = (x.reshape(rows, size, *x.shape[3:]) for x in (k, v))
    return attention(q.reshape(rows, size, -1, q.shape[-1]), k, v, prefix=prefix).reshape(q.shape)


def decode_attention(
    q: Float[Array, "B K M H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    at: Int[Array, " B"],
    prompt_k: Float[Array, "B K S H"],
    prompt_v: Float[Array, "B K S H"],
    lengths: Int[Array, " B"],
) -> Float[Array, "B K M H"]:
    """Attention of one new token a slot, number `at` of its completion, over the prompt and what came before."""
    q = _scaled(q)
    own = jnp.einsum("BKMH,BKTH->BKMT", q, k, preferred_element_type=jnp.float32)
    shared = jnp.einsum("BKMH,BKSH->BKMS", q, prompt_k, preferred_element_type=jnp.float32)
    own = jnp.where((jnp.arange(k.shape[2])[None] <= at[:, None])[:, None, None], own, NEG)
    shared = jnp.where(_prompt_seen(prompt_k.shape[2], lengths)[:, None, None], shared, NEG)
    own, shared = (w.astype(v.dtype) for w in _softmax([own, shared]))
    return jnp.einsum("BKMT,BKTH->BKMH", own, v) + jnp.einsum("BKMS,BKSH->BKMH", shared, prompt_v)


def _prompt_seen(size: int, lengths: Int[Array, " B"]) -> Bool[Array, "B S"]:
    return jnp.arange(size)[None] >= (size - lengths)[:, None]


def _scaled(q: Float[Array, "*B H"]) -> Float[Array, "*B H"]:
    return q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)


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
