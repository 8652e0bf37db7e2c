"""The parameters of the decoder under the names, and in the form, of Hugging Face weight files.

A file has one tensor for each layer (and expert), the decoder one array for all layers. `parts` says of a parameter
which tensors it is made of and what is done to each; both ways follow from it. What differs between families follows
from which norms a model has.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxrl_tok.models.params import ParamSpec

# Name by parameter, and how many leading axes of ours are inputs of a linear map. Its weight is [outputs, inputs] in
# a file, ours has the inputs first; 0 = the same order, with our axes flattened to one.
_LAYER: dict[str, tuple[str, int]] = {
    "q": ("self_attn.q_proj.weight", 1),
    "k": ("self_attn.k_proj.weight", 1),
    "v": ("self_attn.v_proj.weight", 1),
    "o": ("self_attn.o_proj.weight", 2),
    "q_bias": ("self_attn.q_proj.bias", 0),
    "k_bias": ("self_attn.k_proj.bias", 0),
    "v_bias": ("self_attn.v_proj.bias", 0),
    "o_bias": ("self_attn.o_proj.bias", 0),
    "q_norm": ("self_attn.q_norm.weight", 0),
    "k_norm": ("self_attn.k_norm.weight", 0),
    "gate": ("mlp.gate_proj.weight", 1),
    "up": ("mlp.up_proj.weight", 1),
    "down": ("mlp.down_proj.weight", 1),
    "gate_bias": ("mlp.gate_proj.bias", 0),
    "up_bias": ("mlp.up_proj.bias", 0),
    "down_bias": ("mlp.down_proj.bias", 0),
    "router": ("mlp.gate.weight", 1),
}
_EXPERTS = {name: (f"mlp.experts.{{expert}}.{name}_proj.weight", 1) for name in ("gate", "up", "down")}
# By which norms there are: before attention and mlp, after them, or both.
_NORMS: dict[str, dict[str, str]] = {
    "pre": {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"},
    "post": {"attention_post_norm": "post_attention_layernorm", "mlp_post_norm": "post_feedforward_layernorm"},
    "both": {
        "attention_norm": "input_layernorm",
        "attention_post_norm": "post_attention_layernorm",
        "mlp_norm": "pre_feedforward_layernorm",
        "mlp_post_norm": "post_feedforward_layernorm",
    },
}
_TOP = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "head": "lm_head.weight"}


class Part(NamedTuple):
    """One tensor of a file, and the place in a parameter that it fills.

    `at` picks the layer, or the layer and the expert; what is left of the parameter has the shape `shape`, of whose
    axes the first `inputs` are inputs of a linear map.
    """

    name: str
    at: tuple[int, ...]
    shape: tuple[int, ...]
    inputs: int
    file_shape: tuple[int, ...]

    def from_file(self, rows: np.ndarray) -> np.ndarray:
        """Returns our form of a run of the file's rows: all of `shape` but, on the first axis of outputs, a run."""
        inputs, outputs = self.shape[: self.inputs], self.shape[self.inputs :]
        rows = rows.reshape(-1, *outputs[1:], *inputs)
        return np.moveaxis(rows, range(len(outputs)), range(len(inputs), rows.ndim)) if inputs else rows

    def to_file(self, array: np.ndarray) -> np.ndarray:
        """Returns the file's tensor for ours, of shape `shape`."""
        if not self.inputs:
            return array.reshape(self.file_shape)
        return array.reshape(self.file_shape[::-1]).T


def parts(path: tuple[str, ...], spec: ParamSpec, layer_names: Mapping[str, Any]) -> Iterator[Part]:
    """Yields the tensors that one parameter is made of, in the order of its layers and experts.

    Args:
      path: keys from the root of the tree: `("embed",)`, `("layers", "q")`.
      spec: its shape.
      layer_names: the tree's `layers`, whose keys say which norms and which feed-forward part a model has.
    """
    if path[0] != "layers":
        yield Part(_TOP[path[0]], (), spec.shape, 0, spec.shape)
        return
    pattern, inputs = _pattern(path[-1], layer_names)
    stacked = 2 if "{expert}" in pattern else 1
    shape = spec.shape[stacked:]
    flat = (math.prod(shape[inputs:]), *((math.prod(shape[:inputs]),) if inputs else ()))
    for at in np.ndindex(*spec.shape[:stacked]):
        name = f"model.layers.{at[0]}.{pattern.format(expert=at[-1])}"
        yield Part(name, at, shape, inputs, flat)


def adapter_parts(part: Part, rank: int) -> tuple[Part, Part]:
    """Returns the two tensors, A and B, of the adapter of a matrix's tensor, under their names in PEFT form."""
    inputs, outputs = part.shape[: part.inputs], part.shape[part.inputs :]
    columns, rows = math.prod(inputs), math.prod(outputs)
    module = f"base_model.model.{part.name.removesuffix('.weight')}"
    return (
        Part(f"{module}.lora_A.weight", part.at, (*inputs, rank), part.inputs, (rank, columns)),
        Part(f"{module}.lora_B.weight", part.at, (rank, *outputs), 1, (rows, rank)),
    )


def leaves(specs: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], ParamSpec]]:
    """Yields path and spec of every parameter of the decoder."""
    for key, value in specs.items():
        if isinstance(value, Mapping):
            yield from (((key, *path), spec) for path, spec in leaves(value))
        else:
            yield (key,), value


def _pattern(name: str, layer_names: Mapping[str, Any]) -> tuple[str, int]:
    if name in _EXPERTS and "router" in layer_names:
        return _EXPERTS[name]
    if name in _LAYER:
        return _LAYER[name]
    before, after = "attention_norm" in layer_names, "attention_post_norm" in layer_names
    kind = "both" if before and after else "post" if after else "pre"
    return f"{_NORMS[kind][name]}.weight", 0
