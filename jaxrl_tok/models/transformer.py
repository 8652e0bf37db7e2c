"""One decoder-only transformer as pure functions over a parameter tree; its variants are data.

Three ways through it, with the same layers:
* `forward`: prompts and all completions of each, for scoring and training; a prompt is computed once per group.
* `prefill`: prompts alone, giving the cache that their completions share.
* `decode`: one more token for each slot of a rollout.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxrl_tok.models import layers
from jaxrl_tok.models.cache import KVCache
from jaxrl_tok.models.params import ParamSpec

Params = dict[str, Any]

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes and variants of a decoder.

    Training and prefill compile `unroll` layers side by side: faster, and slower to compile.
    """

    vocab: int
    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffw: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    qk_norm: bool = False
    qkv_bias: bool = False
    tied: bool = True
    scale_embedding: bool = False
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1


def specs(arch: Architecture) -> Params:
    """Returns the tree of `ParamSpec`; every layer parameter has a leading axis of `layers`."""
    size, dim, ffw, head = arch.layers, arch.dim, arch.ffw, arch.head_dim
    residual = (2 * arch.layers) ** -0.5  # keeps the residual stream's variance independent of depth

    def matrix(axes: tuple[str | None, ...], *shape: int, fan_in: int, gain: float = 1.0) -> ParamSpec:
        return ParamSpec((size, *shape), ("layers", *axes), scale=gain * fan_in**-0.5)

    def vector(*shape: int, fill: float) -> ParamSpec:
        return ParamSpec((size, *shape), ("layers",) + (None,) * len(shape), fill=fill)

    blocks = {
        "attention_norm": vector(dim, fill=1.0),
        "q": matrix(("embed", "heads", None), dim, arch.heads, head, fan_in=dim),
        "k": matrix(("embed", "kv_heads", None), dim, arch.kv_heads, head, fan_in=dim),
        "v": matrix(("embed", "kv_heads", None), dim, arch.kv_heads, head, fan_in=dim),
        "o": matrix(("heads", None, "embed"), arch.heads, head, dim, fan_in=arch.heads * head, gain=residual),
        "mlp_norm": vector(dim, fill=1.0),
        "gate": matrix(("embed", "ffw"), dim, ffw, fan_in=dim),
        "up": matrix(("embed", "ffw"), dim, ffw, fan_in=dim),
        "down": matrix(("ffw", "embed"), ffw, dim, fan_in=ffw, gain=residual),
    }
    if arch.qkv_bias:
        blocks |= {
            "q_bias": vector(arch.heads, head, fill=0.0),
            "k_bias": vector(arch.kv_heads, head, fill=0.0),
            "v_bias": vector(arch.kv_heads, head, fill=0.0),
        }
    if arch.qk_norm:
        blocks |= {"q_norm": vector(head, fill=1.0), "k_norm": vector(head, fill=1.0)}
    tree = {
        "embed": ParamSpec((arch.vocab, dim), ("vocab", "embed"), scale=dim**-0.5),
        "layers": blocks,
        "final_norm": ParamSpec((dim,), (None,), fill=1.0),
    }
    if not arch.tied:
        tree["head"] = ParamSpec((arch.vocab, dim), ("vocab", "embed"), scale=dim**-0.5)
    return tree


def head(params: Params) -> Float[Array, "V D"]:
    """Returns the output matrix, rows by token: the embedding where the two are tied."""
    return params["head"] if "head" in params else params["embed"]


def forward(
    params: Params,
    arch: Architecture,
    prompts: Int[Array, "P S"],
    lengths: Int[Array, " P"],
    completions: Int[Array, "P G T"],
) -> tuple[Float[Array, "P S D"], Float[Array, "P G T D"]]:
    """Returns the last hidden states of left-padded prompts and of their completions.

    `completions[p, g]` follow `prompts[p]`: they see the prompt and themselves, never each other.
    """
    rows, size = prompts.shape
    own_at = lengths[:, None, None] + jnp.arange(completions.shape[-1], dtype=jnp.int32)[None, None]
    own_at = jnp.broadcast_to(own_at, completions.shape).reshape(rows, -1)
    turns = _turns(jnp.concatenate([_prompt_positions(prompts, lengths), own_at], axis=1), arch)

    def apart(x: Array) -> tuple[Array, Array]:
        return x[:, :size], x[:, size:].reshape(*completions.shape, *x.shape[2:])

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
        (prompt_q, q), (prompt_k, k), (prompt_v, v) = map(apart, (q, k, v))
        prompt = layers.prompt_attention(prompt_q, prompt_k, prompt_v, lengths)
        own = layers.completion_attention(q, k, v, prompt_k, prompt_v, lengths)
        return jnp.concatenate([prompt, own.reshape(rows, -1, *own.shape[3:])], axis=1), None

    def layer(x: Array, weights: Params) -> tuple[Array, None]:
        return _block(x, _ready(weights, arch), arch, turns, attend)

    if arch.remat != "none":
        layer = jax.checkpoint(layer, policy=REMAT[arch.remat])
    # A prompt and its completions are one row: what acts on each token alone then runs, and compiles, once.
    tokens = jnp.concatenate([prompts, completions.reshape(rows, -1)], axis=1)
    x, _ = jax.lax.scan(layer, _embed(params, arch, tokens), params["layers"], unroll=arch.unroll)
    return apart(_final(x, params, arch))


def for_decoding(params: Params, arch: Architecture, length: int) -> Params:
    """Returns the weights as `decode` reads them: each layer its own, in the type of the computation.

    A copy, made once before a loop of many steps that would otherwise cut and convert them in each, with the
    rotations of the first `length` positions, prompt included.
    """
    cast = jax.tree.map(lambda w: w.astype(arch.dtype), params)
    layer = (jax.tree.map(lambda w, i=i: w[i], cast["layers"]) for i in range(arch.layers))
    turns = _turns(jnp.arange(length, dtype=jnp.int32), arch)
    return cast | {"layers": tuple(map(layers.fuse, layer)), "turns": turns}


def empty_cache(arch: Architecture, rows: int, length: int) -> tuple[KVCache, ...]:
    """Returns a cache for `length` tokens of each row, by layer."""
    shape = (rows, arch.kv_heads, length, arch.head_dim)
    return tuple(KVCache.empty(*shape, arch.dtype) for _ in range(arch.layers))


def prefill(
    params: Params, arch: Architecture, prompts: Int[Array, "P S"], lengths: Int[Array, " P"]
) -> tuple[Float[Array, "P D"], tuple[KVCache, ...]]:
    """Returns the hidden state of each prompt's last token and, by layer, the keys and values of all of them."""
    turns = _turns(_prompt_positions(prompts, lengths), arch)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, KVCache]:
        return layers.prompt_attention(q, k, v, lengths), KVCache(k.swapaxes(1, 2), v.swapaxes(1, 2))

    def layer(x: Array, weights: Params) -> tuple[Array, KVCache]:
        return _block(x, _ready(weights, arch), arch, turns, attend)

    x, stacked = jax.lax.scan(layer, _embed(params, arch, prompts), params["layers"], unroll=arch.unroll)
    caches = tuple(jax.tree.map(lambda c, i=i: c[i], stacked) for i in range(arch.layers))
    return _final(x[:, -1], params, arch), caches


def decode(
    weights: Params,
    arch: Architecture,
    tokens: Int[Array, " B"],
    at: Int[Array, " B"],
    cache: tuple[KVCache, ...],
    prompt_cache: tuple[KVCache, ...],
    prompt_of: Int[Array, " B"],
    lengths: Int[Array, " P"],
) -> tuple[Float[Array, "B D"], tuple[KVCache, ...]]:
    """Feeds each slot its token number `at`; returns the hidden states and the longer cache.

    `weights` are those of `for_decoding`. Slots that serve the same prompt share one copy of its keys and values
    (`prompt_of` maps slot to prompt). Layers are compiled side by side whatever `unroll` says: a scan over them
    would copy every layer's cache in and out at each token.
    """
    x = _embed(weights, arch, tokens)
    lengths = lengths[prompt_of]
    turns, longer = weights["turns"][lengths + at], []
    for layer, own, prompt in zip(weights["layers"], cache, prompt_cache, strict=True):

        def attend(q: Array, k: Array, v: Array, own: KVCache = own, prompt: KVCache = prompt) -> Any:
            own, shared = own.write(at, k, v), prompt.rows(prompt_of)
            return layers.decode_attention(q, own.k, own.v, at, shared.k, shared.v, lengths), own

        x, own = _block(x, layer, arch, turns, attend)
        longer.append(own)
    return _final(x, weights, arch), tuple(longer)


def _block(x: Array, weights: Params, arch: Architecture, turns: Array, attend: Any) -> tuple[Array, Any]:
    """One pre-norm layer; `attend(q, k, v)` returns the mixed values and whatever it wants to keep."""
    h = layers.rms_norm(x, weights["attention_norm"], arch.norm_eps)
    q, k, v = layers.project(h, weights, turns, arch.norm_eps)
    mixed, kept = attend(q, k, v)
    mixed = mixed.reshape(*x.shape[:-1], arch.heads, arch.head_dim)
    x = x + jnp.einsum("...NH,NHD->...D", mixed, weights["o"])
    h = layers.rms_norm(x, weights["mlp_norm"], arch.norm_eps)
    return x + layers.swiglu(h, weights["gate_up"], weights["down"]), kept


def _turns(positions: Array, arch: Architecture) -> Array:
    return layers.turns(positions, arch.head_dim, arch.rope_theta)


def _prompt_positions(prompts: Array, lengths: Array) -> Array:
    """Positions count from each prompt's first token; padding on its left gets 0."""
    size = prompts.shape[1]
    return jnp.maximum(jnp.arange(size, dtype=jnp.int32)[None] - (size - lengths)[:, None], 0)


def _embed(params: Params, arch: Architecture, tokens: Array) -> Array:
    x = params["embed"][tokens].astype(arch.dtype)
    # Unit variance at the start whatever the width, while a tied head keeps its small initial scale.
    return x * jnp.asarray(arch.dim**0.5, x.dtype) if arch.scale_embedding else x


def _final(x: Array, params: Params, arch: Architecture) -> Array:
    return layers.rms_norm(x, params["final_norm"], arch.norm_eps)


def _ready(layer: Params, arch: Architecture) -> Params:
    """Brings one layer's weights to the form and the type of the computation."""
    return layers.fuse(jax.tree.map(lambda w: w.astype(arch.dtype), layer))
