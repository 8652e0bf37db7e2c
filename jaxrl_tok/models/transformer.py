"""One decoder-only transformer as pure functions over a parameter tree; its variants are data.

Four ways through it, with the same layers:
* `forward`: prompts and all completions of each, for scoring and training; a prompt is computed once per group.
* `forward_tries`: the same of what is distinct in them; a token that completions share is computed once.
* `prefill`: prompts alone, giving the cache that their completions share.
* `decode`: one more token for each slot of a rollout.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.models import layers, moe
from jaxrl_tok.models.architecture import Architecture, Params, specs
from jaxrl_tok.models.cache import KVCache, Level
from jaxrl_tok.models.model import Caches, Hidden
from jaxrl_tok.models.rope import turns as turns_of
from jaxrl_tok.sharding.constrain import constrain
from jaxrl_tok.types import Tries

REMAT = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def head(params: Params) -> Float[Array, "V D"]:
    """Returns the output matrix, rows by token: the embedding where the two are tied."""
    return params["head"] if "head" in params else params["embed"]


def forward(
    params: Params,
    arch: Architecture,
    prompts: Int[Array, "P S"],
    lengths: Int[Array, " P"],
    completions: Int[Array, "P G T"],
    mask: Bool[Array, "P G T"] | None = None,
) -> Hidden:
    """Returns the last hidden states of left-padded prompts and of their completions.

    `completions[p, g]` follow `prompts[p]`: they see the prompt and themselves, never each other. With experts and a
    `mask`, also how unevenly the tokens of the mask used them, the mean over layers.
    """
    if not arch.share_prompt:
        return _apart(params, arch, prompts, lengths, completions, mask)
    rows, size = prompts.shape
    own_at = lengths[:, None, None] + jnp.arange(completions.shape[-1], dtype=jnp.int32)[None, None]
    own_at = jnp.broadcast_to(own_at, completions.shape).reshape(rows, -1)
    turns = _turns(jnp.concatenate([_prompt_positions(prompts, lengths), own_at], axis=1), arch)

    def apart(x: Array) -> tuple[Array, Array]:
        return x[:, :size], x[:, size:].reshape(*completions.shape, *x.shape[2:])

    def layer(x: Array, weights: Params, slides: bool) -> tuple[Array, Array | None]:
        def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            (prompt_q, q), (prompt_k, k), (prompt_v, v) = map(apart, (q, k, v))
            how = _how(arch, slides)
            prompt = layers.prompt_attention(prompt_q, prompt_k, prompt_v, lengths, how)
            own = layers.completion_attention(q, k, v, prompt_k, prompt_v, lengths, how)
            return jnp.concatenate([prompt, own.reshape(rows, -1, *own.shape[3:])], axis=1), None

        x, _, routed = _block(x, _ready(weights, arch), arch, turns[slides], attend)
        if routed is None or mask is None:
            return x, None
        (_, ids), (_, probs) = map(apart, routed)
        return x, moe.balance(ids, probs, mask)

    # A prompt and its completions are one row: what acts on each token alone then runs, and compiles, once.
    tokens = jnp.concatenate([prompts, completions.reshape(rows, -1)], axis=1)
    x, balances = _through(layer, _embed(params, arch, tokens), params["layers"], arch, remat=arch.remat)
    return Hidden(*apart(_final(x, params, arch)), None if balances is None else jnp.mean(balances, axis=0))


def _apart(params: Params, arch: Architecture, prompts: Array, lengths: Array, completions: Array, mask: Any) -> Hidden:
    """Returns `forward` of as many prompts as there are completions."""
    rows, group, size = completions.shape
    own = [jnp.repeat(x, group, axis=0) for x in (prompts, lengths)]
    alone = [x if x is None else x.reshape(rows * group, 1, size) for x in (completions, mask)]
    found = forward(params, dataclasses.replace(arch, share_prompt=True), *own, *alone)
    prompt, completion = (x.reshape(rows, group, *x.shape[1:]) for x in (found.prompt, found.completion))
    balance = None if found.balance is None else found.balance.reshape(rows, group)
    return Hidden(prompt[:, 0], completion[:, :, 0], balance)


def forward_tries(
    params: Params, arch: Architecture, tries: Tries, mask: Bool[Array, "P G T"] | None = None
) -> tuple[Float[Array, "R S D"], Float[Array, "P G"] | None]:
    """Returns the last hidden state of each token of packed tries, and `Hidden.balance` of the completions in them.

    A token attends to the tokens on its path, so its state is what `forward` gives to each completion that has it.
    """
    turns = _turns(tries.positions, arch)

    def layer(x: Array, weights: Params, slides: bool) -> tuple[Array, Array | None]:
        def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            return layers.trie_attention(q, k, v, tries.ends, tries.positions, _how(arch, slides)), None

        x, _, routed = _block(x, _ready(weights, arch), arch, turns[slides], attend)
        if routed is None or mask is None:
            return x, None
        ids, probs = (tries.of_completions(jnp.take_along_axis(y, tries.node[:, :, None], axis=1)) for y in routed)
        return x, moe.balance(ids, probs, mask)

    x, balances = _through(layer, _embed(params, arch, tries.tokens), params["layers"], arch, remat=arch.remat)
    return _final(x, params, arch), None if balances is None else jnp.mean(balances, axis=0)


def for_decoding(params: Params, arch: Architecture, length: int) -> Params:
    """Returns the weights as `decode` reads them: each layer its own, in the type of the computation.

    A copy, made once before a loop of many steps that would otherwise cut and convert them in each, with the
    rotations of the first `length` positions, prompt included.
    """
    cast = jax.tree.map(lambda w: w.astype(arch.dtype), params)
    cast["turns"] = _turns(jnp.arange(length, dtype=jnp.int32), arch)
    if arch.scan_decoding:
        return cast | {"layers": jax.vmap(layers.fuse)(cast["layers"])}
    layer = (jax.tree.map(lambda w, i=i: w[i], cast["layers"]) for i in range(arch.layers))
    return cast | {"layers": tuple(map(layers.fuse, layer))}


def empty_cache(arch: Architecture, rows: int, length: int) -> Caches:
    """Returns a cache for `length` tokens of each row, by layer."""
    shape = (rows, arch.kv_heads, length, arch.head_dim)
    if arch.scan_decoding:
        return KVCache.empty(*shape, arch.dtype, arch.layers)
    return tuple(KVCache.empty(*shape, arch.dtype) for _ in range(arch.layers))


def prefill(
    params: Params, arch: Architecture, prompts: Int[Array, "P S"], lengths: Int[Array, " P"]
) -> tuple[Float[Array, "P D"], Caches]:
    """Returns the hidden state of each prompt's last token and, by layer, the keys and values of all of them."""
    turns = _turns(_prompt_positions(prompts, lengths), arch)

    def layer(x: Array, weights: Params, slides: bool) -> tuple[Array, KVCache]:
        def attend(q: Array, k: Array, v: Array) -> tuple[Array, KVCache]:
            mixed = layers.prompt_attention(q, k, v, lengths, _how(arch, slides))
            return mixed, KVCache(k.swapaxes(1, 2), v.swapaxes(1, 2))

        x, kept, _ = _block(x, _ready(weights, arch), arch, turns[slides], attend)
        return x, kept

    x, stacked = _through(layer, _embed(params, arch, prompts), params["layers"], arch)
    if not arch.scan_decoding:
        stacked = tuple(jax.tree.map(lambda c, i=i: c[i], stacked) for i in range(arch.layers))
    return _final(x[:, -1], params, arch), stacked


def decode(
    weights: Params,
    arch: Architecture,
    tokens: Int[Array, " B"],
    at: Int[Array, " B"],
    cache: Caches,
    levels: tuple[Level, ...],
) -> tuple[Float[Array, "B D"], Caches]:
    """Feeds each slot its token number `at`; returns the hidden states and the longer cache.

    `weights` are those of `for_decoding`. Slots that go on from the same text share one copy of its keys and values:
    the `levels`, the first of them the prompts. Layers are compiled side by side, or with `scan_decoding` as one loop,
    which takes what it reads of a layer out of arrays of all of them.
    """
    position = sum((level.lengths for level in levels), at)
    turns = {slides: table[position] for slides, table in weights["turns"].items()}

    def layer(x: Array, own: KVCache, before: Sequence[KVCache], weights: Params, slides: bool, i: Any = None) -> Any:
        def attend(q: Array, k: Array, v: Array) -> tuple[Array, KVCache]:
            longer = own.write(at, k, v, i)
            seen, shared = longer.of(i), [_shared(*one, i) for one in zip(before, levels, strict=True)]
            return layers.decode_attention(q, seen.k, seen.v, at, shared, _how(arch, slides)), longer

        return _block(x, weights, arch, turns[slides], attend)[:2]

    def period(carry: tuple[Array, KVCache], first: Array, count: int = arch.period) -> tuple[Any, None]:
        for j in range(count):
            own = jax.tree.map(lambda w, j=j: w[first + j], weights["layers"])
            carry = layer(*carry, before, own, arch.slides(j), first + j)
        return carry, None

    before = [level.cache for level in levels]
    x = _embed(weights, arch, tokens)
    if arch.scan_decoding:
        whole = arch.layers // arch.period * arch.period
        (x, cache), _ = jax.lax.scan(period, (x, cache), jnp.arange(0, whole, arch.period))
        x, cache = period((x, cache), jnp.int32(whole), arch.layers - whole)[0]
        return _final(x, weights, arch), cache
    longer = []
    for i, (own, one) in enumerate(zip(cache, weights["layers"], strict=True)):
        x, own = layer(x, own, [part[i] for part in before], one, arch.slides(i))
        longer.append(own)
    return _final(x, weights, arch), tuple(longer)


def _through(layer: Any, x: Array, weights: Params, arch: Architecture, remat: str = "none") -> tuple[Array, Any]:
    """Takes x through all layers, `layer(x, weights, slides) -> (x, kept)`; returns x and what was kept, by layer.

    Layers of one kind are one step of a scan; where kinds repeat after several layers, these are one step.
    """

    def step(x: Array, weights: Params) -> tuple[Array, Any]:
        if arch.period == 1:
            return of_kind[arch.slides(0)](x, weights)
        kept = []
        for i in range(arch.period):
            x, one = of_kind[arch.slides(i)](x, jax.tree.map(lambda w, i=i: w[i], weights))
            kept.append(one)
        return x, jax.tree.map(lambda *parts: jnp.stack(parts), *kept)

    of_kind = {slides: lambda x, weights, slides=slides: layer(x, weights, slides) for slides in (False, True)}
    if remat != "none":
        of_kind = {slides: jax.checkpoint(one, policy=REMAT[remat]) for slides, one in of_kind.items()}
    whole = arch.layers // arch.period * arch.period
    periods = weights
    if arch.period > 1:
        periods = jax.tree.map(lambda w: w[:whole].reshape(-1, arch.period, *w.shape[1:]), weights)
    x, kept = jax.lax.scan(step, x, periods, unroll=arch.unroll)
    if arch.period == 1:
        return x, kept
    kept = [jax.tree.map(lambda k: k.reshape(-1, *k.shape[2:]), kept)]
    for i in range(whole, arch.layers):
        x, one = of_kind[arch.slides(i)](x, jax.tree.map(lambda w, i=i: w[i], weights))
        kept.append(jax.tree.map(lambda k: k[None], one))
    return x, jax.tree.map(lambda *parts: jnp.concatenate(parts), *kept)


def _block(x: Array, weights: Params, arch: Architecture, turns: Array, attend: Any) -> tuple[Array, Any, Any]:
    """One layer; `attend(q, k, v)` returns the mixed values and whatever it wants to keep.

    Also returns the experts that were chosen and their probabilities, None without experts.
    """
    norm = functools.partial(_norm, weights=weights, arch=arch)
    q, k, v = layers.project(norm(x, "attention_norm"), weights, turns, arch.norm_eps, offset=arch.norm_offset)
    mixed, kept = attend(*(_over_heads(y, x.ndim - 1) for y in (q, k, v)))
    mixed = mixed.reshape(*x.shape[:-1], arch.heads, arch.head_dim)
    y = layers.adapted(jnp.einsum("...NH,HND->...D", mixed, weights["o"]), mixed, weights, "o")
    if "o_bias" in weights:
        y = y + weights["o_bias"].reshape((1,) * (y.ndim - 1) + (-1,))
    x = _over_tokens(x + norm(y, "attention_post_norm"))
    h, routed = norm(x, "mlp_norm"), None
    if arch.experts:
        ids, shares, probs = moe.route(h, weights["router"], arch.experts_per_token, arch.norm_top_k)
        y = moe.experts(h, ids, shares, weights["gate_up"], weights["down"], arch.activation, weights.get("lora"))
        routed = ids, probs
    else:
        y = layers.mlp(h, weights, arch.activation)
    return _over_tokens(x + norm(y, "mlp_post_norm")), kept, routed


def _norm(x: Array, name: str, *, weights: Params, arch: Architecture) -> Array:
    """The named norm, where the layer has it."""
    return layers.rms_norm(x, weights[name], arch.norm_eps, offset=arch.norm_offset) if name in weights else x


def _over_tokens(x: Array) -> Array:
    """Between layers every token is on its own, and rows of them are split by position too."""
    return constrain(x, "batch", "tokens", None) if x.ndim == 3 else x


def _over_heads(x: Array, rows: int) -> Array:
    """In attention every key/value head is on its own, and sees the whole of its row's `rows` axes."""
    heads = ("heads", "queries") if x.ndim == rows + 3 else ("heads",)
    return constrain(x, "batch", *(None,) * (rows - 1), *heads, None)


def _how(arch: Architecture, slides: bool) -> layers.Attention:
    return layers.Attention(arch.attention_scale, arch.attention_cap, arch.window if slides else None)


def _shared(cache: KVCache, level: Level, layer: Any) -> layers.Shared:
    """What the slots see of a level, of one of its layers."""
    rows = cache.rows(level.row, layer)
    return layers.Shared(rows.k, rows.v, level.start, level.end)


def _turns(positions: Array, arch: Architecture) -> dict[bool, Array]:
    """The turns of each kind of layer: with the window and without."""
    whole = turns_of(positions, arch.head_dim, arch.rope)
    local = arch.local_rope if arch.window is not None else None
    return {False: whole, True: whole if local is None else turns_of(positions, arch.head_dim, local)}


def _prompt_positions(prompts: Array, lengths: Array) -> Array:
    """Positions count from each prompt's first token; padding on its left gets 0."""
    size = prompts.shape[1]
    return jnp.maximum(jnp.arange(size, dtype=jnp.int32)[None] - (size - lengths)[:, None], 0)


def _embed(params: Params, arch: Architecture, tokens: Array) -> Array:
    x = layers.embed(params["embed"], tokens, arch.dtype)
    # Unit variance at the start whatever the width, while a tied head keeps its small initial scale.
    return _over_tokens(x * jnp.asarray(arch.dim**0.5, x.dtype) if arch.scale_embedding else x)


def _final(x: Array, params: Params, arch: Architecture) -> Array:
    return layers.rms_norm(x, params["final_norm"], arch.norm_eps, offset=arch.norm_offset)


def _ready(layer: Params, arch: Architecture) -> Params:
    """Brings one layer's weights to the form and the type of the computation."""
    return layers.fuse(jax.tree.map(lambda w: w.astype(arch.dtype), layer))


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The built-in decoder as a `Model`."""

    arch: Architecture

    @property
    def vocab(self) -> int:
        """Rows of the embedding."""
        return self.arch.vocab

    @property
    def logit_cap(self) -> float | None:
        """The soft cap on logits."""
        return self.arch.logit_cap

    def specs(self) -> Params:
        """Returns `specs`."""
        return specs(self.arch)

    def forward(
        self, params: Params, prompts: Array, lengths: Array, completions: Array, mask: Array | None = None
    ) -> Hidden:
        """Returns `forward`."""
        return forward(params, self.arch, prompts, lengths, completions, mask)

    def forward_tries(self, params: Params, tries: Tries, mask: Array | None = None) -> tuple[Array, Array | None]:
        """Returns `forward_tries`."""
        return forward_tries(params, self.arch, tries, mask)

    def head(self, params: Params) -> Array:
        """Returns `head`."""
        return head(params)

    def for_decoding(self, params: Params, length: int) -> Params:
        """Returns `for_decoding`."""
        return for_decoding(params, self.arch, length)

    def prefill(self, params: Params, prompts: Array, lengths: Array) -> tuple[Array, Caches]:
        """Returns `prefill`."""
        return prefill(params, self.arch, prompts, lengths)

    def empty_cache(self, rows: int, length: int) -> Caches:
        """Returns `empty_cache`."""
        return empty_cache(self.arch, rows, length)

    def decode(self, weights: Params, *arrays: Any) -> tuple[Array, Caches]:
        """Returns `decode`."""
        return decode(weights, self.arch, *arrays)
