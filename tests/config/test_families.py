"""From `config.json` to the fields of a model and back: published models by hand, and what is refused."""

import json

import pytest

from jaxrl_tok.config.families import FAMILIES, canonical, from_hf, read_config, to_hf
from jaxrl_tok.config.schema import ModelConfig
from jaxrl_tok.errors import ConfigError
from tests.parity.cases import CONFIGS

# What these files say, shortened to the keys that are read.
LLAMA3_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0, "tie_word_embeddings": False, "hidden_act": "silu", "max_position_embeddings": 131072,
    "attention_bias": False, "mlp_bias": False, "pretraining_tp": 1, "attention_dropout": 0.0,
    "rope_scaling": {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
}  # fmt: skip
QWEN25_05B = {
    "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151936, "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0, "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32768,
    "max_window_layers": 21,
}  # fmt: skip
# Nearly all of it is left to the family's defaults, and the vision tower is not ours.
GEMMA3_4B = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "vision_config": {"hidden_size": 1152},
    "text_config": {
        "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
        "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
    },
}  # fmt: skip


def said(fields, *keys):
    return tuple(fields[key] for key in keys)


def test_llama_3():
    fields = from_hf(LLAMA3_8B)
    sizes = said(fields, "vocab", "layers", "dim", "heads", "kv_heads", "head_dim", "ffw")
    assert sizes == (128256, 32, 4096, 32, 8, 128, 14336)
    assert said(fields, "norms", "qk_norm", "qkv_bias", "o_bias", "mlp_bias", "tied") == (
        ("pre", "none", False, False, False, False)
    )
    rope = fields["rope"]
    assert said(rope, "theta", "scaling", "factor", "original_length") == (500000.0, "llama3", 8.0, 8192)
    assert said(rope, "low_freq_factor", "high_freq_factor") == (1.0, 4.0)
    assert fields["window"] is None


def test_qwen_25():
    fields = from_hf(QWEN25_05B)
    assert said(fields, "head_dim", "qkv_bias", "o_bias", "tied", "window") == (64, True, False, True, None)


def test_gemma_3_beside_a_vision_tower():
    fields = from_hf(GEMMA3_4B)
    assert said(fields, "vocab", "layers", "heads", "kv_heads", "head_dim") == (262208, 34, 8, 4, 256)
    assert said(fields, "norms", "norm_offset", "qk_norm", "scale_embedding", "activation") == (
        ("both", True, "head", True, "gelu_tanh")
    )
    assert said(fields, "window", "sliding") == (1024, [True] * 5 + [False])
    assert said(fields["rope"], "theta", "scaling", "factor") == (1e6, "linear", 8.0)
    assert said(fields["local_rope"], "theta", "scaling", "factor") == (1e4, "none", 1.0)
    assert fields["tied"] and fields["attention_scale"] is None


@pytest.mark.parametrize(
    ("change", "window", "sliding"),
    [
        ({}, None, [True]),
        ({"use_sliding_window": True}, 32768, [False] * 21 + [True] * 3),
        ({"use_sliding_window": True, "max_window_layers": 0}, 32768, [True]),
        ({"use_sliding_window": True, "max_window_layers": 24}, None, [True]),
        ({"use_sliding_window": True, "sliding_window": None}, None, [True]),
        (
            {"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"] * 12},
            *(32768, [True, False]),
        ),
    ],
)
def test_windows_of_qwen(change, window, sliding):
    fields = from_hf(QWEN25_05B | change)
    assert said(fields, "window", "sliding") == (window, sliding)


def test_new_and_old_form_of_rotary_settings_mean_the_same():
    scaling, theta = LLAMA3_8B["rope_scaling"], {"rope_theta": 500000.0}
    new = {key: value for key, value in LLAMA3_8B.items() if not key.startswith("rope")}
    assert from_hf(new | {"rope_parameters": scaling | theta}) == from_hf(LLAMA3_8B)
    by_type = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    by_type["full_attention"] = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    inner = {k: v for k, v in GEMMA3_4B["text_config"].items() if k != "rope_scaling"} | {"rope_parameters": by_type}
    assert from_hf(inner) == from_hf(GEMMA3_4B)


def test_yarn_counts_its_scales_together():
    yarn = {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 64,
        "mscale": 2,
        "mscale_all_dim": 1,
    }
    rope = from_hf(LLAMA3_8B | {"rope_scaling": yarn})["rope"]
    assert rope["attention_factor"] == pytest.approx((0.2 * 1.3862943611 + 1) / (0.1 * 1.3862943611 + 1))
    del yarn["mscale"]
    assert from_hf(LLAMA3_8B | {"rope_scaling": yarn})["rope"]["attention_factor"] is None


@pytest.mark.parametrize("name", CONFIGS)
def test_fields_written_as_config_json_read_back(name):
    fields = from_hf(CONFIGS[name])
    written = json.loads(json.dumps(to_hf(fields, 128)))
    assert written["model_type"] == CONFIGS[name]["model_type"]
    assert written["architectures"] == [FAMILIES[written["model_type"]].class_name]
    assert from_hf(written) == fields
    # And they are fields of ModelConfig, all but its name and its weights.
    assert set(ModelConfig(**fields).model_dump()) == {"name", "weights", *fields}


def test_our_own_defaults_are_a_llama_or_a_qwen3():
    own = ModelConfig(vocab=64, layers=2, dim=32, heads=4, kv_heads=2, head_dim=8, ffw=48)
    assert to_hf(own.model_dump(), 64)["model_type"] == "llama"
    assert to_hf(own.model_copy(update={"qk_norm": "head"}).model_dump(), 64)["model_type"] == "qwen3"
    assert to_hf(own.model_copy(update={"qkv_bias": True}).model_dump(), 64)["model_type"] == "qwen2"


def test_what_no_family_has_is_refused_with_the_keys():
    own = ModelConfig(vocab=64, layers=2, dim=32, heads=4, kv_heads=2, head_dim=8, ffw=48, attention_cap=3.0)
    with pytest.raises(ConfigError, match=r"^model: attention_cap = 3.0: no family of .*; the nearest is llama$"):
        to_hf(own.model_dump(), 64)


def test_canonical_forms():
    fields = from_hf(GEMMA3_4B)
    cut = fields | {"layers": 5}
    assert canonical(cut)["sliding"] == [True]
    assert canonical(fields | {"window": None})["local_rope"] is None
    assert canonical(fields | {"attention_scale": 256**-0.5})["attention_scale"] is None


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model_type": "lama"}, "x.json: model_type = \"lama\": no such family here; did you mean 'llama'?"),
        ({}, "x.json: model_type = null: no such family here; known: gemma3, llama, qwen2, qwen3, qwen3_moe, "),
        (
            LLAMA3_8B | {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
            'x.json: rope_scaling.type = "dynamic": supported: default, linear, llama3, yarn',
        ),
        (
            LLAMA3_8B | {"rope_scaling": None, "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4}},
            'x.json: rope_parameters.rope_type = "longrope": supported: default, linear, llama3, yarn',
        ),
        (
            LLAMA3_8B | {"rope_scaling": {"type": "linear"}},
            "x.json: rope_scaling.factor = null: expected a number above 0",
        ),
        (
            LLAMA3_8B | {"partial_rotary_factor": 0.5},
            "x.json: partial_rotary_factor = 0.5: supported: 1, whole heads turn",
        ),
        (LLAMA3_8B | {"hidden_act": "gelu"}, 'x.json: hidden_act = "gelu": supported: silu, swish, gelu_pytorch_tanh'),
        (LLAMA3_8B | {"hidden_size": "big"}, 'x.json: hidden_size = "big": expected an integer of at least 1'),
        (
            LLAMA3_8B | {"quantization_config": {"quant_method": "fp8"}},
            'x.json: quantization_config.quant_method = "fp8": quantised weights cannot be trained; use the original',
        ),
        (
            {"model_type": "qwen3_moe", "decoder_sparse_step": 2},
            "x.json: decoder_sparse_step = 2: supported: 1, experts in every layer",
        ),
        (
            {"model_type": "qwen3_moe", "mlp_only_layers": [0]},
            "x.json: mlp_only_layers = [0]: supported: [], experts in every layer",
        ),
        (
            {"model_type": "gemma3_text", "use_bidirectional_attention": True},
            "x.json: use_bidirectional_attention = true: supported: false, the decoder is causal",
        ),
        (
            QWEN25_05B | {"use_sliding_window": True, "layer_types": ["linear_attention"] * 24},
            "x.json: layer_types = [",
        ),
        (QWEN25_05B | {"layer_types": ["sliding_attention"] * 24}, "x.json: layer_types = ["),
    ],
)
def test_what_the_decoder_cannot_do_is_one_line(config, line):
    with pytest.raises(ConfigError) as caught:
        from_hf(config, "x.json")
    assert str(caught.value).startswith(line) and "\n" not in str(caught.value)


def test_a_folder_without_a_config(tmp_path):
    with pytest.raises(
        ConfigError, match=r"config\.json: no such file: expected a folder with a model in Hugging Face"
    ):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json: not JSON: "):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"config\.json: expected a JSON object"):
        read_config(tmp_path)
