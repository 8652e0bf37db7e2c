"""Tiny models of every family with their options on: configurations, weights drawn by NumPy, tokens.

Read by `tools/make_hf_logits.py`, which asks `transformers` what they give, and by the tests. Needs NumPy alone.
"""

import re
import zlib

import numpy as np

VOCAB, STEPS = 61, 64
PROMPTS, GROUP, SIZE, LENGTH = 2, 2, 9, 24  # prompts of 9 and 5 tokens, two completions each
PROMPT_LENGTHS = (9, 5)
EVERY = 3  # of the logits, every third position is stored

_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "pad_token_id": None,  # else transformers gives the embedding of that token no gradient
}
_LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 16}

CONFIGS = {
    "llama": _SIZES
    | {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}
    | {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **_LLAMA3}},
    "smollm2": {key: value for key, value in _SIZES.items() if key != "head_dim"}
    | {"model_type": "llama", "tie_word_embeddings": True}
    | {"rope_theta": 300.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "qwen2": _SIZES
    | {"model_type": "qwen2", "tie_word_embeddings": False, "rope_theta": 1000.0}
    | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}
    | {"rope_scaling": {"type": "yarn", **_YARN}},
    "qwen3": _SIZES
    | {"model_type": "qwen3", "attention_bias": True, "tie_word_embeddings": True}
    | {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}
    | {
        "rope_parameters": _YARN
        | {"rope_type": "yarn", "rope_theta": 700.0, "truncate": False, "attention_factor": 1.3}
    },
    "qwen3_moe": _SIZES
    | {"model_type": "qwen3_moe", "attention_bias": True, "tie_word_embeddings": False, "num_experts": 6}
    | {"num_experts_per_tok": 3, "moe_intermediate_size": 24, "norm_topk_prob": True, "decoder_sparse_step": 1}
    | {"rope_theta": 2000.0, "mlp_only_layers": []},
    "qwen3_moe_raw": _SIZES
    | {"model_type": "qwen3_moe", "tie_word_embeddings": True, "num_experts": 5, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 24, "norm_topk_prob": False, "use_sliding_window": True, "sliding_window": 6}
    | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 500.0, **_LLAMA3}},
    "gemma3": _SIZES
    | {"model_type": "gemma3_text", "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 24}
    | {"attention_bias": True, "final_logit_softcapping": 4.0, "sliding_window": 7, "sliding_window_pattern": 2}
    | {"rope_theta": 5000.0, "rope_local_base_freq": 100.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    "gemma3_new": _SIZES
    | {"model_type": "gemma3_text", "query_pre_attn_scalar": 16, "tie_word_embeddings": False, "sliding_window": 6}
    | {"layer_types": ["sliding_attention", "sliding_attention", "full_attention"], "num_hidden_layers": 3}
    | {
        "rope_parameters": {
            "full_attention": {"rope_type": "yarn", "rope_theta": 900.0, **_YARN},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        }
    },
    "olmo2": _SIZES
    | {"model_type": "olmo2", "attention_bias": True, "tie_word_embeddings": False, "rope_theta": 800.0}
    | {"rope_scaling": {"rope_type": "yarn", "mscale": 1.5, "mscale_all_dim": 0.8, "beta_fast": 8, **_YARN}},
}
# transformers has the soft cap on scores in the code of Gemma 3, and reads no key for it: it is given by the caller.
SOFT_CAP = {"gemma3": 1.5}


def shapes(config):
    """Names and shapes of a model's tensors in a file."""
    dim, ffw, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim", dim // heads)
    kind, keys = config["model_type"], config["num_key_value_heads"] * head
    queries = heads * head
    bias, found = config.get("attention_bias", False), {"model.embed_tokens.weight": (VOCAB, dim)}
    for i in range(config["num_hidden_layers"]):
        layer = {"self_attn.q_proj": (queries, dim), "self_attn.k_proj": (keys, dim), "self_attn.v_proj": (keys, dim)}
        biases = {name: rows for name, (rows, _) in layer.items()} if bias or kind == "qwen2" else {}
        layer["self_attn.o_proj"] = (dim, queries)
        biases |= {"self_attn.o_proj": dim} if bias else {}
        experts = range(config["num_experts"]) if kind == "qwen3_moe" else [None]
        for e in experts:
            place, width = ("mlp.", ffw) if e is None else (f"mlp.experts.{e}.", config["moe_intermediate_size"])
            layer |= {f"{place}{name}_proj": (width, dim) for name in ("gate", "up")}
            layer[f"{place}down_proj"] = (dim, width)
        if kind == "qwen3_moe":
            layer["mlp.gate"] = (config["num_experts"], dim)
        if config.get("mlp_bias"):
            biases |= {f"mlp.{name}_proj": layer[f"mlp.{name}_proj"][0] for name in ("gate", "up", "down")}
        norms = ["post_attention_layernorm"] + ["input_layernorm"] * (kind != "olmo2")
        norms += ["post_feedforward_layernorm"] * (kind in ("olmo2", "gemma3_text"))
        norms += ["pre_feedforward_layernorm"] * (kind == "gemma3_text")
        layer |= {name: (dim,) for name in norms}
        if kind in ("qwen3", "qwen3_moe", "gemma3_text"):
            layer |= {"self_attn.q_norm": (head,), "self_attn.k_norm": (head,)}
        elif kind == "olmo2":
            layer |= {"self_attn.q_norm": (queries,), "self_attn.k_norm": (keys,)}
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        found |= {f"model.layers.{i}.{name}.bias": (rows,) for name, rows in biases.items()}
    found["model.norm.weight"] = (dim,)
    if not config.get("tie_word_embeddings", kind == "gemma3_text"):
        found["lm_head.weight"] = (VOCAB, dim)
    return found


def draw(config, seed):
    """The tensors: each from a key of its own, matrices wide enough that attention and experts choose."""
    tensors = {}
    for name, shape in shapes(config).items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        x = rng.standard_normal(shape)
        if "norm" in name:
            x = 0.2 * x + (0 if config["model_type"] == "gemma3_text" else 1)
        elif name.endswith("bias"):
            x = 0.3 * x
        elif "embed" not in name:
            x = x * (2.0 if "mlp.gate." in name else 1.3) * shape[-1] ** -0.5
        tensors[name] = x.astype(np.float32)
    return tensors


def tokens(seed):
    """Prompts, padded on the left with 0, and their completions."""
    rng = np.random.default_rng([seed, 1])
    prompts = rng.integers(1, VOCAB, (PROMPTS, SIZE))
    for row, length in zip(prompts, PROMPT_LENGTHS, strict=True):
        row[: SIZE - length] = 0
    return prompts.astype(np.int32), rng.integers(1, VOCAB, (PROMPTS, GROUP, LENGTH)).astype(np.int32)


def watched(config):
    """Names of the tensors whose gradients are stored: one of each kind, from the layers and experts in turn."""
    kinds = {}
    for name in shapes(config):
        kinds.setdefault(re.sub(r"\.\d+\.", ".*.", name), []).append(name)
    return [names[i % len(names)] for i, names in enumerate(kinds.values())]
