"""From a Hugging Face `config.json` to the fields of `ModelConfig`, and back.

A family is data: what `transformers` takes for a key that is left out, and what its code fixes. The meaning of a key
is the one that `transformers` 5 gives it; both forms of the rotary settings are read (`rope_theta` with `rope_scaling`,
and `rope_parameters`). What the decoder cannot do is refused here, before any weight is read.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxrl_tok.config.hf_config import HfConfig
from jaxrl_tok.config.ropes import plain_rope, read_rope, write_rope
from jaxrl_tok.errors import ConfigError, nearest

Fields = dict[str, Any]

CONFIG = "config.json"
_LAYER_TYPES = {"full_attention": False, "sliding_attention": True}
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu_pytorch_tanh": "gelu_tanh"}

# What a key counts as that its file leaves out, where the families do not differ.
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,  # as many as query heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "intermediate_size": 11008,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "use_sliding_window": False,
    "sliding_window": 4096,
}
_QWEN = {"vocab_size": 151_936, "intermediate_size": 22_016, "max_position_embeddings": 32_768}

# What every family fixes unless it says otherwise.
_FIXED: Fields = {
    "norms": "pre",
    "norm_offset": False,
    "qk_norm": "none",
    "mlp_bias": False,
    "attention_scale": None,
    "attention_cap": None,
    "logit_cap": None,
    "scale_embedding": False,
    "experts": 0,
    "experts_per_token": 0,
    "norm_top_k": True,
}


@dataclasses.dataclass(frozen=True)
class Family:
    """What one `model_type` says by itself: its class, its defaults, and the fields that its code fixes."""

    class_name: str
    defaults: Mapping[str, Any]
    fixed: Mapping[str, Any]
    windows: str = "none"  # "layers": by layer_types or max_window_layers; "all": every layer; "pattern": Gemma's


# Earlier ones are preferred where several can say the same.
FAMILIES: dict[str, Family] = {
    "llama": Family("LlamaForCausalLM", {"vocab_size": 32_000, "mlp_bias": False}, {}),
    "qwen2": Family(
        "Qwen2ForCausalLM", _QWEN | {"max_window_layers": 28}, {"qkv_bias": True, "o_bias": False}, "layers"
    ),
    "qwen3": Family(
        "Qwen3ForCausalLM", _QWEN | {"head_dim": 128, "max_window_layers": 28}, {"qk_norm": "head"}, "layers"
    ),
    "qwen3_moe": Family(
        "Qwen3MoeForCausalLM",
        _QWEN
        | {"hidden_size": 2048, "num_hidden_layers": 24, "num_key_value_heads": 4, "moe_intermediate_size": 768}
        | {"num_experts": 128, "num_experts_per_tok": 8, "norm_topk_prob": False},
        {"qk_norm": "head"},
        "all",
    ),
    "olmo2": Family(
        "Olmo2ForCausalLM", {"vocab_size": 50_304, "rms_norm_eps": 1e-5}, {"norms": "post", "qk_norm": "whole"}
    ),
    "gemma3_text": Family(
        "Gemma3ForCausalLM",
        {"vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26}
        | {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "query_pre_attn_scalar": 256}
        | {"hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 131_072, "tie_word_embeddings": True}
        | {"rope_theta": 1_000_000.0, "rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6},
        {"norms": "both", "norm_offset": True, "qk_norm": "head", "scale_embedding": True},
        "pattern",
    ),
}

# SmolLM2-135M-Instruct, which the extra `smollm2` holds without such a file.
SMOLLM2_CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100_000.0,
    "tie_word_embeddings": True,
}


def read_config(folder: Path) -> tuple[dict[str, Any], str]:
    """Returns what a folder's `config.json` says, and how errors name that file.

    Raises:
      ConfigError: there is no such folder or file, or it is no JSON object.
    """
    path = folder / CONFIG
    here = os.path.relpath(path)
    label = str(path) if here.startswith("..") else here
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{label}: no such file: expected a folder with a model in Hugging Face form") from None
    except OSError as error:
        raise ConfigError(f"{label}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{label}: not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{label}: expected a JSON object")
    return config, label


def text_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the part about the language model: of `gemma3`, with its vision tower, the table `text_config`."""
    if config.get("model_type") != "gemma3":
        return dict(config)
    inner = config.get("text_config") or {}
    tied = {key: config[key] for key in ("tie_word_embeddings",) if key in config}
    return {"model_type": "gemma3_text", **tied, **inner}


def from_hf(config: Mapping[str, Any], label: str = CONFIG) -> Fields:
    """Returns the fields of `ModelConfig`, all that describe the architecture, for a `config.json`.

    Gemma 3's `attention_logit_softcapping` is left out, as in the code of `transformers`, which reads it nowhere.

    Raises:
      ConfigError: the model is of another family, or uses what the decoder cannot do.
    """
    table = text_config(config)
    name = table.get("model_type")
    if name not in FAMILIES:
        known = ["gemma3", *FAMILIES]
        hint = nearest(name, known) if isinstance(name, str) else f"known: {', '.join(known)}"
        raise ConfigError(f"{label}: model_type = {json.dumps(name)}: no such family here; {hint}")
    family = FAMILIES[name]
    said = HfConfig(table, label, {**_DEFAULTS, **family.defaults})
    _refuse_unsupported(said)
    dim, heads = said.size("hidden_size"), said.size("num_attention_heads")
    layers, head_dim = said.size("num_hidden_layers"), said.size("head_dim", dim // heads)
    activation = said.get("hidden_activation" if name == "gemma3_text" else "hidden_act")
    if activation not in _ACTIVATIONS:
        said.refuse("hidden_act", activation, f"supported: {', '.join(_ACTIVATIONS)}")
    bias = bool(said.get("attention_bias"))
    fields: Fields = {
        "vocab": said.size("vocab_size"),
        "layers": layers,
        "dim": dim,
        "heads": heads,
        "kv_heads": said.size("num_key_value_heads", heads),
        "head_dim": head_dim,
        "ffw": said.size("moe_intermediate_size" if name == "qwen3_moe" else "intermediate_size"),
        "rope": read_rope(said, "full_attention"),
        "local_rope": read_rope(said, "sliding_attention") if name == "gemma3_text" else None,
        "norm_eps": float(said.get("rms_norm_eps")),
        "activation": _ACTIVATIONS[activation],
        "qkv_bias": bias,
        "o_bias": bias,
        "tied": bool(said.get("tie_word_embeddings")),
        **_FIXED,
        **family.fixed,
    }
    window, sliding = _windows(said, layers)
    fields |= {"window": window, "sliding": sliding}
    if name == "llama":
        fields["mlp_bias"] = bool(said.get("mlp_bias"))
    elif name == "gemma3_text":
        fields["attention_scale"] = float(said.get("query_pre_attn_scalar")) ** -0.5
        fields["logit_cap"] = said.number("final_logit_softcapping")
    elif name == "qwen3_moe":
        fields["experts"] = said.size("num_local_experts", said.size("num_experts"))
        fields["experts_per_token"] = said.size("num_experts_per_tok")
        fields["norm_top_k"] = bool(said.get("norm_topk_prob"))
    return canonical(fields)


def to_hf(fields: Mapping[str, Any], max_length: int) -> dict[str, Any]:
    """Returns a `config.json` whose family and keys say what the fields of a `ModelConfig` say.

    Args:
      fields: those of `from_hf`, the vocabulary among them; others are ignored.
      max_length: the longest text that the model is meant for, as `max_position_embeddings`.

    Raises:
      ConfigError: no family has this combination; the line names the keys that differ from the nearest one.
    """
    wanted = canonical({key: fields[key] for key in _field_names()})
    tried: dict[str, dict[str, Any]] = {name: _written(name, wanted, max_length) for name in FAMILIES}
    differing: dict[str, list[str]] = {}
    for name, config in tried.items():
        found = from_hf(config)
        differing[name] = [key for key in wanted if found[key] != wanted[key]]
        if not differing[name]:
            return config
    name = min(differing, key=lambda name: len(differing[name]))
    said = ", ".join(f"{key} = {wanted[key]!r}" for key in differing[name])
    raise ConfigError(f"model: {said}: no family of transformers has this combination; the nearest is {name}")


def canonical(fields: Mapping[str, Any]) -> Fields:
    """Returns fields in which what means the same is the same: unused keys at their defaults, the shortest cycle."""
    fields = dict(fields)
    flags = [bool(fields["sliding"][i % len(fields["sliding"])]) for i in range(fields["layers"])]
    if fields["window"] is None or not any(flags):
        fields |= {"window": None, "local_rope": None, "sliding": [True]}
    else:
        fields["sliding"] = _cycle(flags)
    fields["rope"] = plain_rope(fields["rope"])
    local = None if fields["local_rope"] is None else plain_rope(fields["local_rope"])
    fields["local_rope"] = None if local == fields["rope"] else local
    if fields["attention_scale"] == fields["head_dim"] ** -0.5:
        fields["attention_scale"] = None
    if not fields["experts"]:
        fields |= {"experts_per_token": 0, "norm_top_k": True}
    return fields


def _refuse_unsupported(said: HfConfig) -> None:
    """Refuses what changes the model and what the decoder has no field for."""
    if said.get("quantization_config") is not None:
        method = said.get("quantization_config").get("quant_method")
        said.refuse("quantization_config.quant_method", method, "quantised weights cannot be trained; use the original")
    if said.get("partial_rotary_factor") not in (None, 1):
        said.refuse("partial_rotary_factor", said.get("partial_rotary_factor"), "supported: 1, whole heads turn")
    if said.get("model_type") == "gemma3_text" and said.get("use_bidirectional_attention"):
        said.refuse("use_bidirectional_attention", True, "supported: false, the decoder is causal")
    if said.get("model_type") == "qwen3_moe":
        if said.get("decoder_sparse_step") not in (None, 1):
            said.refuse("decoder_sparse_step", said.get("decoder_sparse_step"), "supported: 1, experts in every layer")
        if said.get("mlp_only_layers"):
            said.refuse("mlp_only_layers", said.get("mlp_only_layers"), "supported: [], experts in every layer")


def _windows(said: HfConfig, layers: int) -> tuple[int | None, list[bool]]:
    """Returns how many tokens a layer with a window sees, itself included, and which layers have one."""
    how = FAMILIES[said.get("model_type")].windows
    gemma = how == "pattern"
    # Null, here, is something said: no window.
    given = said.table.get("sliding_window", said.get("sliding_window"))
    if how == "none" or given is None or not (gemma or said.get("use_sliding_window")):
        if how in ("layers", "pattern") and "sliding_attention" in (said.table.get("layer_types") or ()):
            said.refuse("layer_types", said.table["layer_types"], "layers with a window need sliding_window")
        return None, [True]
    window = said.size("sliding_window")
    if how == "all":
        return window, [True]
    types = said.table.get("layer_types")
    if types is not None:
        if len(types) != layers or not set(types) <= _LAYER_TYPES.keys():
            said.refuse("layer_types", types, f"expected {layers} of {', '.join(_LAYER_TYPES)}")
        return window, [_LAYER_TYPES[kind] for kind in types]
    if gemma:
        pattern = said.size("sliding_window_pattern", said.get("_sliding_window_pattern"))
        return window, [bool((i + 1) % pattern) for i in range(layers)]
    return window, [i >= said.get("max_window_layers") for i in range(layers)]


def _written(name: str, fields: Fields, max_length: int) -> dict[str, Any]:
    """Returns how a family writes these fields, as far as it can."""
    heads, gemma = fields["heads"], name == "gemma3_text"
    activation = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}[fields["activation"]]
    config = {
        "architectures": [FAMILIES[name].class_name],
        "model_type": name,
        "vocab_size": fields["vocab"],
        "hidden_size": fields["dim"],
        "intermediate_size": fields["ffw"],
        "num_hidden_layers": fields["layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields["kv_heads"],
        "head_dim": fields["head_dim"],
        "hidden_activation" if gemma else "hidden_act": activation,
        "max_position_embeddings": max_length,
        "rms_norm_eps": fields["norm_eps"],
        "tie_word_embeddings": fields["tied"],
        **write_rope(fields["rope"], (fields["local_rope"] or fields["rope"]) if gemma else None),
    }
    if name != "qwen2":
        config["attention_bias"] = fields["qkv_bias"]
    if name == "llama":
        config["mlp_bias"] = fields["mlp_bias"]
    if name == "qwen3_moe":
        config |= {
            "moe_intermediate_size": fields["ffw"],
            "num_experts": fields["experts"] or 1,
            "num_experts_per_tok": fields["experts_per_token"] or 1,
            "norm_topk_prob": fields["norm_top_k"],
            "decoder_sparse_step": 1,
            "mlp_only_layers": [],
        }
    if gemma:
        scale = fields["attention_scale"]
        # A whole number is what the key takes; the nearest one gives back the same scale where it came from one.
        config["query_pre_attn_scalar"] = fields["head_dim"] if scale is None else round(scale**-2)
        config["final_logit_softcapping"] = fields["logit_cap"]
    return config | _written_windows(FAMILIES[name].windows, fields)


def _written_windows(how: str, fields: Fields) -> dict[str, Any]:
    if how == "none":
        return {}
    layers, sliding = fields["layers"], fields["sliding"]
    flags = [fields["window"] is not None and bool(sliding[i % len(sliding)]) for i in range(layers)]
    kinds = {flag: kind for kind, flag in _LAYER_TYPES.items()}
    types = {"layer_types": [kinds[flag] for flag in flags]}
    if how == "pattern":
        # Without a layer that has one, the number is not used, but it has to be one.
        return types | {"sliding_window": fields["window"] or 4096}
    used = {"use_sliding_window": any(flags), "sliding_window": fields["window"]}
    return used if how == "all" else used | types


def _cycle(flags: list[bool]) -> list[bool]:
    """Returns the shortest list that, repeated, begins with these."""
    sizes = range(1, len(flags) + 1)
    return next(flags[:size] for size in sizes if all(f == flags[i % size] for i, f in enumerate(flags)))


def _field_names() -> list[str]:
    return list(from_hf({"model_type": "llama"}))
