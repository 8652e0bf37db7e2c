"""A model out as a folder in Hugging Face form: the tensors it came from, to the bit, and what goes with them."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrl_tok.config.families import from_hf
from jaxrl_tok.config.schema import ModelConfig, TrainSection
from jaxrl_tok.errors import CheckpointError
from jaxrl_tok.io import tokenizer as tokenizers
from jaxrl_tok.io import weights
from jaxrl_tok.io.export import export, hf_config, hf_generation
from jaxrl_tok.models import architecture as sizes
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train.build import architecture
from tests.helpers import need
from tests.parity import cases

ALPHABET = "".join(map(chr, range(65, 65 + cases.VOCAB - 2)))


def specs_of(name):
    return sizes.specs(architecture(ModelConfig(**from_hf(cases.CONFIGS[name])), TrainSection(), 0))


def exported(tmp_path, name, **options):
    """Reads a model's weights onto four devices and writes them again; returns what was read and where it is."""
    (tmp_path / "in").mkdir()
    tensors = cases.draw(cases.CONFIGS[name], 0)
    save_file(tensors, tmp_path / "in/model.safetensors")
    specs = specs_of(name)
    shardings = param_shardings(specs, make_mesh({"fsdp": 2, "tensor": 2}))
    params = weights.load(tmp_path / "in", specs, shardings, jnp.float32)
    (tmp_path / "in/config.json").write_text(json.dumps(cases.CONFIGS[name] | {"auto_map": {"AutoModel": "x.py"}}))
    config = hf_config({"weights": str(tmp_path / "in")}, 99)
    export(params, specs, config, tokenizers.characters(ALPHABET), tmp_path / "out", **options)
    return tensors, tmp_path / "out"


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gemma3", "olmo2"])
def test_tensors_are_those_that_were_read(tmp_path, name):
    tensors, out = exported(tmp_path, name, dtype="float32", shard_bytes=60_000)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 1
    found = {key: x for file in files for key, x in load_file(file).items()}
    assert found.keys() == tensors.keys()
    for key, x in tensors.items():
        assert found[key].dtype == np.float32
        np.testing.assert_array_equal(found[key], x, err_msg=key)
    # One layer stands with itself, after the embedding.
    order = list(json.loads((out / "model.safetensors.index.json").read_text())["weight_map"])
    layers = [int(key.split(".")[2]) for key in order if ".layers." in key]
    assert order[0] == "model.embed_tokens.weight" and layers == sorted(layers)


def test_what_goes_with_the_weights(tmp_path):
    tensors, out = exported(tmp_path, "llama")
    found = load_file(out / "model.safetensors")
    np.testing.assert_array_equal(found["lm_head.weight"], tensors["lm_head.weight"].astype(ml_dtypes.bfloat16))
    config = json.loads((out / "config.json").read_text())
    assert from_hf(config) == from_hf(cases.CONFIGS["llama"])
    assert config["architectures"] == ["LlamaForCausalLM"] and "auto_map" not in config
    assert (config["torch_dtype"], config["eos_token_id"], config["max_position_embeddings"]) == ("bfloat16", [1], 128)
    assert json.loads((out / "generation_config.json").read_text()) == {"eos_token_id": [1], "pad_token_id": 0}
    loaded = tokenizers.load(out)
    assert loaded.encode("ABA") == tokenizers.characters(ALPHABET).encode("ABA")
    assert loaded.eos_ids == (1,)


def test_a_model_without_weights_writes_its_own_configuration():
    model = ModelConfig(vocab=61, layers=2, dim=32, heads=4, kv_heads=2, head_dim=16, ffw=40, qk_norm="head")
    config = hf_config(model.model_dump(), 99)
    assert (config["model_type"], config["max_position_embeddings"]) == ("qwen3", 99)


def test_settings_of_sampling_go_along(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6, "eos_token_id": [7]}')
    assert hf_generation(str(tmp_path)) == {"temperature": 0.6, "eos_token_id": [7]}
    assert hf_generation(None) == hf_generation("smollm2") == {}


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "kept").touch()
    with pytest.raises(CheckpointError, match=r": holds kept: expected a new or an empty folder$"):
        export({}, {"layers": {}}, {}, tokenizers.characters("ab"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.CONFIGS)
def test_transformers_loads_the_same_tensors(tmp_path, name):
    need("torch")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tensors, out = exported(tmp_path, name, dtype="float32", shard_bytes=60_000)
    model, info = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    model.save_pretrained(tmp_path / "again", safe_serialization=True)
    found = load_file(tmp_path / "again/model.safetensors")
    assert found.keys() == tensors.keys()
    for key, x in tensors.items():
        np.testing.assert_array_equal(found[key], x, err_msg=key)
    assert AutoTokenizer.from_pretrained(out).encode("ABA") == [2, 3, 2]
