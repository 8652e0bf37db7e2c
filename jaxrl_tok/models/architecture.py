"""What a decoder is: its sizes, its variants, and the parameters that follow from them."""

import dataclasses
from typing import Any, Literal

from jaxrl_tok.models.params import ParamSpec
from jaxrl_tok.models.rope import Rope

Params = dict[str, Any]
PLAIN = Rope()


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes and variants of a decoder.

    `norms` stand before attention and feed-forward ("pre"), after them and before the residual is added ("post"), or
    in both places. `qk_norm` is over each head or over all together ("whole"). Layer i has the `window` where
    `sliding[i % len(sliding)]`, and then the positions of `local_rope` if there is one. With `experts` the feed-forward
    part is that many of width `ffw`. Training and prefill compile `unroll` layers side by side: faster, and slower
    to compile. Decoding compiles all of them so, or with `scan_decoding` a loop over them. `forward` computes a prompt
    once for its group, or without `share_prompt` once for each completion, as if each had a prompt of its own.
    """

    vocab: int
    layers: int
    dim: int
    heads: int
    kv_heads: int
    head_dim: int
    ffw: int
    rope: Rope = PLAIN
    local_rope: Rope | None = None
    norm_eps: float = 1e-6
    norms: Literal["pre", "post", "both"] = "pre"
    norm_offset: bool = False
    qk_norm: Literal["none", "head", "whole"] = "none"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    activation: str = "silu"
    attention_scale: float | None = None
    attention_cap: float | None = None
    logit_cap: float | None = None
    window: int | None = None
    sliding: tuple[bool, ...] = (True,)
    tied: bool = True
    scale_embedding: bool = False
    experts: int = 0
    experts_per_token: int = 0
    norm_top_k: bool = True
    dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1
    scan_decoding: bool = False
    share_prompt: bool = True

    @property
    def period(self) -> int:
        """After how many layers their kinds repeat."""
        return 1 if self.window is None else min(len(self.sliding), self.layers)

    def slides(self, layer: int) -> bool:
        """Whether a layer has the window."""
        return self.window is not None and self.sliding[layer % len(self.sliding)]


def specs(arch: Architecture) -> Params:
    """Returns the tree of `ParamSpec`; every layer parameter has a leading axis of `layers`."""
    dim, heads, kv_heads, head = arch.dim, arch.heads, arch.kv_heads, arch.head_dim
    residual = (2 * arch.layers) ** -0.5  # keeps the residual stream's variance independent of depth

    def matrix(axes: tuple[str | None, ...], *shape: int, fan_in: int, gain: float = 1.0) -> ParamSpec:
        return ParamSpec((arch.layers, *shape), ("layers", *axes), scale=gain * fan_in**-0.5)

    def vector(*shape: int, axes: tuple[str | None, ...] | None = None, fill: float = 0.0) -> ParamSpec:
        return ParamSpec((arch.layers, *shape), ("layers",) + (axes or (None,) * len(shape)), fill=fill)

    one = 0.0 if arch.norm_offset else 1.0
    blocks = {
        "q": matrix(("embed", "heads", None), dim, heads, head, fan_in=dim),
        "k": matrix(("embed", "kv_heads", None), dim, kv_heads, head, fan_in=dim),
        "v": matrix(("embed", "kv_heads", None), dim, kv_heads, head, fan_in=dim),
        "o": matrix(("heads", None, "embed"), heads, head, dim, fan_in=heads * head, gain=residual),
    }
    places = {"pre": ("norm",), "post": ("post_norm",), "both": ("norm", "post_norm")}[arch.norms]
    blocks |= {f"{part}_{place}": vector(dim, fill=one) for part in ("attention", "mlp") for place in places}
    if arch.qkv_bias:
        blocks["q_bias"] = vector(heads, head, axes=("heads", None))
        blocks |= {f"{name}_bias": vector(kv_heads, head, axes=("kv_heads", None)) for name in "kv"}
    if arch.o_bias:
        blocks["o_bias"] = vector(dim)
    if arch.qk_norm == "head":
        blocks |= {f"{name}_norm": vector(head, fill=one) for name in "qk"}
    elif arch.qk_norm == "whole":
        blocks["q_norm"] = vector(heads, head, axes=("heads", None), fill=one)
        blocks["k_norm"] = vector(kv_heads, head, axes=("kv_heads", None), fill=one)
    tree = {
        "embed": ParamSpec((arch.vocab, dim), ("vocab", "embed"), scale=dim**-0.5),
        "layers": blocks | _feed_forward(arch, matrix, vector, residual),
        "final_norm": ParamSpec((dim,), (None,), fill=one),
    }
    if not arch.tied:
        tree["head"] = ParamSpec((arch.vocab, dim), ("vocab", "embed"), scale=dim**-0.5)
    return tree


def _feed_forward(arch: Architecture, matrix: Any, vector: Any, residual: float) -> Params:
    dim, ffw = arch.dim, arch.ffw
    if arch.experts:
        number, into, out = arch.experts, ("experts", "embed", None), ("experts", None, "embed")
        return {
            "router": matrix(("embed", None), dim, number, fan_in=dim),
            "gate": matrix(into, number, dim, ffw, fan_in=dim),
            "up": matrix(into, number, dim, ffw, fan_in=dim),
            "down": matrix(out, number, ffw, dim, fan_in=ffw, gain=residual),
        }
    weights = {
        "gate": matrix(("embed", "ffw"), dim, ffw, fan_in=dim),
        "up": matrix(("embed", "ffw"), dim, ffw, fan_in=dim),
        "down": matrix(("ffw", "embed"), ffw, dim, fan_in=ffw, gain=residual),
    }
    if arch.mlp_bias:
        weights |= {f"{name}_bias": vector(ffw, axes=("ffw",)) for name in ("gate", "up")}
        weights["down_bias"] = vector(dim)
    return weights
