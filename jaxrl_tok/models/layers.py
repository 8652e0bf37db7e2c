"""The pieces of a decoder layer as functions of arrays.

Axes in einsums: P prompts, G completions of a prompt, S prompt positions, T query positions, U key positions,
B slots, D model, K key/value heads, M query heads of one key/value head, H head size, F feed-forward, V vocabulary.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.kernels import Prefix, attention
from jaxrl_tok.kernels.attention.common import accumulation
from jaxrl_tok.models.rope import rotate
from jaxrl_tok.sharding.local import Over, per_shard

# Finite, so that a row that sees no key gives a mean of its keys instead of NaN.
NEG = -1e30

# The logical axes of keys and values of rows.
KEYS = ("batch", None, "heads", None)

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


def embed(table: Float[Array, "V D"], tokens: Int[Array, "*B"], dtype: str) -> Float[Array, "*B D"]:
    """Returns the rows of the table that the tokens name.

    On a mesh the table stays where it is: the tokens go to the devices that hold a part of their rows along D, each
    looks up those of its part of the vocabulary, and what was found comes back.
    """

    def look_up(table: Array, tokens: Array, over: Over) -> Array:
        for name in over["embed"]:
            tokens = jax.lax.all_gather(tokens, name, tiled=True)
        here: Any = True
        for name in over["vocab"]:
            tokens = tokens - jax.lax.axis_index(name) * table.shape[0]
            here = (tokens >= 0) & (tokens < table.shape[0])
        x = table[jnp.where(here, tokens, 0)].astype(dtype)
        if over["vocab"]:
            # All terms of the sum but one are 0.
            x = jax.lax.psum(jnp.where(here[..., None], x, 0), over["vocab"])
        for name in over["embed"]:
            x = jax.lax.all_to_all(x, name, 0, x.ndim - 1, tiled=True)
        return x

    rows = ("batch", "positions", *(None,) * (tokens.ndim - 2))[: tokens.ndim]
    return per_shard(look_up, (table, tokens), (("vocab", "embed"), rows), (*rows, None))


def rms_norm(
    x: Float[Array, "*B"], weight: Float[Array, "*D"], eps: float, *, offset: bool = False
) -> Float[Array, "*B"]:
    """Returns x / sqrt(mean(x^2) + eps) * weight over the last axes, those of the weight, in float32 (or 64).

    Zhang & Sennrich 2019, arXiv 1910.07467. With `offset` the factor is 1 + weight, of that type too (Gemma).
    """
    y = x.astype(accumulation(x))
    axes = tuple(range(-weight.ndim, 0))
    y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=axes, keepdims=True) + y.dtype.type(eps))
    if offset:
        return (y * _like(1 + weight.astype(y.dtype), y)).astype(x.dtype)
    return y.astype(x.dtype) * _like(weight.astype(x.dtype), x)


def fuse(weights: dict[str, Any]) -> dict[str, Any]:
    """Joins what multiplies the same input, so that one large product takes the place of several small ones.

    `q`, `k`, `v` become `qkv [D, K, M + 2, H]`, `gate` and `up` become `gate_up [D, 2, F]`, of experts
    `[E, D, 2, F]`: joined along axes that are never sharded, so that taking the parts of a product moves nothing
    between devices. `o` becomes `[H, N, D]`, as XLA's products on the CPU read it: else each decode step would copy it.
    """
    q, k, v = (weights[name] for name in "qkv")
    q = q.reshape(q.shape[0], k.shape[1], -1, k.shape[2])
    joined = {"q", "k", "v", "gate", "up", "o"}
    return {name: w for name, w in weights.items() if name not in joined} | {
        "qkv": jnp.concatenate([q, k[:, :, None], v[:, :, None]], axis=2),
        "gate_up": jnp.stack([weights["gate"], weights["up"]], axis=-2),
        "o": jnp.swapaxes(weights["o"], 0, 1),
    }


def adapted(y: Float[Array, "*B"], x: Float[Array, "*C"], weights: dict[str, Any], name: str) -> Float[Array, "*B"]:
    """Returns y + (x a) b with the named matrix's adapter, and y where it has none. Hu et al. 2021, arXiv 2106.09685.

    y is what the matrix gives for x, whose last axes are the first of `a`. The product of the two is never made: it
    would be as large as the matrix, and so would its gradient.
    """
    adapter = weights.get("lora", {}).get(name)
    if adapter is None:
        return y
    low = jnp.tensordot(x, adapter["a"], axes=adapter["a"].ndim - 1)
    return y + jnp.tensordot(low, adapter["b"], axes=1).reshape(y.shape)


def mlp(x: Float[Array, "*B D"], weights: dict[str, Any], activation: str = "silu") -> Float[Array, "*B D"]:
    """Returns (act(x gate) * (x up)) down, with biases where the weights have them. Shazeer 2020, arXiv 2002.05202."""
    h = jnp.einsum("...D,DCF->...CF", x, weights["gate_up"])
    if "gate_bias" in weights:
        h = h + _like(jnp.stack([weights["gate_bias"], weights["up_bias"]]), h)
    gate, up = (adapted(h[..., i, :], x, weights, name) for i, name in enumerate(("gate", "up")))
    h = ACTIVATIONS[activation](gate) * up
    y = adapted(jnp.einsum("...F,FD->...D", h, weights["down"]), h, weights, "down")
    return y + _like(weights["down_bias"], y) if "down_bias" in weights else y


def project(
    x: Float[Array, "*B D"],
    weights: dict[str, Any],
    turns: Float[Array, "*B 2 J"],
    eps: float,
    *,
    offset: bool = False,
) -> tuple[Float[Array, "*B K M H"], Float[Array, "*B K H"], Float[Array, "*B K H"]]:
    """Returns queries by the key/value head they share, keys and values, of fused weights.

    With biases and QK-norm where the weights have them: over each head, or over all together where its weight has
    an axis of heads.
    """
    qkv = jnp.einsum("...D,DKCH->...KCH", x, weights["qkv"])
    q, k, v = qkv[..., :-2, :], qkv[..., -2, :], qkv[..., -1, :]
    q, k, v = (adapted(y, x, weights, name) for y, name in zip((q, k, v), "qkv", strict=True))
    if "q_bias" in weights:
        q = q + _like(weights["q_bias"].reshape(q.shape[-3:]), q)
        k, v = (y + _like(weights[f"{n}_bias"], y) for y, n in ((k, "k"), (v, "v")))
    if "q_norm" in weights:
        q_norm = weights["q_norm"]
        q = rms_norm(q, q_norm if q_norm.ndim == 1 else q_norm.reshape(q.shape[-3:]), eps, offset=offset)
        k = rms_norm(k, weights["k_norm"], eps, offset=offset)
    return rotate(q, turns), rotate(k, turns), v


@dataclasses.dataclass(frozen=True)
class Attention:
    """What attention is besides its arrays: the factor on scores, their soft cap, the tokens that one sees."""

    scale: float | None = None  # 1 / sqrt(H)
    soft_cap: float | None = None
    window: int | None = None


def prompt_attention(
    q: Float[Array, "P S K M H"],
    k: Float[Array, "P S K H"],
    v: Float[Array, "P S K H"],
    lengths: Int[Array, " P"],
    how: Attention = Attention(),
) -> Float[Array, "P S K M H"]:
    """Causal attention over left-padded prompts, 0 at their padding."""

    def attend(q: Array, k: Array, v: Array, lengths: Array, over: Over) -> Array:
        segments = jnp.where(_prompt_seen(q.shape[1], lengths), 0, -1)
        heads = q.reshape(*q.shape[:2], -1, q.shape[-1])
        return attention(heads, k, v, segments=segments, **dataclasses.asdict(how)).reshape(q.shape)

    queries = ("batch", None, "heads", "queries", None)
    return per_shard(attend, (q, k, v, lengths), (queries, KEYS, KEYS, ("batch",)), queries)


def completion_attention(
    q: Float[Array, "P G T K M H"],
    k: Float[Array, "P G T K H"],
    v: Float[Array, "P G T K H"],
    prompt_k: Float[Array, "P S K H"],
    prompt_v: Float[Array, "P S K H"],
    lengths: Int[Array, " P"],
    how: Attention = Attention(),
) -> Float[Array, "P G T K M H"]:
    """Causal attention of completions over themselves and over the prompt that their group shares."""

    def attend(q: Array, k: Array, v: Array, prompt_k: Array, prompt_v: Array, lengths: Array, over: Over) -> Array:
        prefix = Prefix(prompt_k, prompt_v, _prompt_seen(prompt_k.shape[1], lengths))
        rows, size = q.shape[0] * q.shape[1], q.shape[2]
        k, v = (x.reshape(rows, size, *x.shape[3:]) for x in (k, v))
        heads = q.reshape(rows, size, -1, q.shape[-1])
        return attention(heads, k, v, prefix=prefix, **dataclasses.asdict(how)).reshape(q.shape)

    queries, keys = ("batch", None, None, "heads", "queries", None), ("batch", None, None, "heads", None)
    arrays, axes = (q, k, v, prompt_k, prompt_v, lengths), (queries, keys, keys, KEYS, KEYS, ("batch",))
    return per_shard(attend, arrays, axes, queries)


def trie_attention(
    q: Float[Array, "R S K M H"],
    k: Float[Array, "R S K H"],
    v: Float[Array, "R S K H"],
    ends: Int[Array, "R S"],
    positions: Int[Array, "R S"],
    how: Attention = Attention(),
) -> Float[Array, "R S K M H"]:
    """Attention of each token of packed tries over the tokens on its path, 0 at padding."""

    def attend(q: Array, k: Array, v: Array, ends: Array, positions: Array, over: Over) -> Array:
        heads = q.reshape(*q.shape[:2], -1, q.shape[-1])
        return attention(heads, k, v, ends=ends, positions=positions, **dataclasses.asdict(how)).reshape(q.shape)

    queries, rows = ("batch", None, "heads", "queries", None), ("batch", None)
    return per_shard(attend, (q, k, v, ends, positions), (queries, KEYS, KEYS, rows, rows), queries)


class Shared(NamedTuple):
    """Keys and values that a slot does not own; it sees those numbered from `start` to before `end`."""

    k: Float[Array, "B K S H"]
    v: Float[Array, "B K S H"]
    start: Int[Array, " B"]
    end: Int[Array, " B"]


def decode_attention(
    q: Float[Array, "B K M H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    at: Int[Array, " B"],
    shared: Sequence[Shared] = (),
    how: Attention = Attention(),
) -> Float[Array, "B K M H"]:
    """Attention of one new token a slot, number `at` of its own, over these and over what is shared before them.

    What a slot sees of each shared part stands, as a text does, before what it sees of the next one.
    """
    q = q * jnp.asarray(q.shape[-1] ** -0.5 if how.scale is None else how.scale, q.dtype)
    ago = at[:, None] - jnp.arange(k.shape[2])[None]
    parts, seen, after = [_scores(q, k, how)], [_in_window(ago >= 0, ago, how)], at
    for part in reversed(shared):
        number = jnp.arange(part.k.shape[2])[None]
        here = (number >= part.start[:, None]) & (number < part.end[:, None])
        parts.append(_scores(q, part.k, how))
        seen.append(_in_window(here, (after + part.end)[:, None] - number, how))
        after = after + part.end - part.start
    values = [v, *(part.v for part in reversed(shared))]
    masked = [jnp.where(here[:, None, None], part, NEG) for part, here in zip(parts, seen, strict=True)]
    mixed = [
        jnp.einsum("BKMT,BKTH->BKMH", weights.astype(v.dtype), x)
        for weights, x in zip(_softmax(masked), values, strict=True)
    ]
    return functools.reduce(jnp.add, mixed)


def _scores(q: Array, k: Array, how: Attention) -> Array:
    scores = jnp.einsum("BKMH,BKTH->BKMT", q, k, preferred_element_type=jnp.float32)
    return scores if how.soft_cap is None else how.soft_cap * jnp.tanh(scores / how.soft_cap)


def _in_window(seen: Array, ago: Array, how: Attention) -> Array:
    return seen if how.window is None else seen & (ago < how.window)


def _prompt_seen(size: int, lengths: Int[Array, " B"]) -> Bool[Array, "B S"]:
    return jnp.arange(size, dtype=lengths.dtype)[None] >= (size - lengths)[:, None]


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
