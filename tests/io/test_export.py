"""A model out as a folder in Hugging Face form: the tensors it came from, to the bit, and what goes with them."""

import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxrl_tok.config.families import from_hf
from jaxrl_tok.config.schema import ModelConfig, TrainSection
from jaxrl_tok.errors import CheckpointError, ConfigError
from jaxrl_tok.io import tokenizer as tokenizers
from jaxrl_tok.io import weights
from jaxrl_tok.io.export import export, export_adapters, hf_config, hf_generation
from jaxrl_tok.models import Lora, Transformer, params
from jaxrl_tok.models import architecture as sizes
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train.build import architecture
from tests.helpers import need
from tests.parity import cases

ALPHABET = "".join(map(chr, range(65, 65 + cases.VOCAB - 2)))


def specs_of(name):
    return sizes.specs(architecture(ModelConfig(**from_hf(cases.CONFIGS[name])), TrainSection(), 0))


def read(folder, specs, mesh):
    return weights.load(folder, specs, param_shardings(specs, mesh), jnp.float32)


def exported(tmp_path, name, **options):
    """Reads a model's weights onto four devices and writes them again; returns what was read and where it is."""
    (tmp_path / "in").mkdir()
    tensors = cases.draw(cases.CONFIGS[name], 0)
    save_file(tensors, tmp_path / "in/model.safetensors")
    specs = specs_of(name)
    # Five experts do not divide over two devices.
    mesh = make_mesh({"fsdp": 2, "tensor": 2} if name != "qwen3_moe_raw" else {"fsdp": 4})
    loaded = read(tmp_path / "in", specs, mesh)
    (tmp_path / "in/config.json").write_text(json.dumps(cases.CONFIGS[name] | {"auto_map": {"AutoModel": "x.py"}}))
    config = hf_config({"weights": str(tmp_path / "in")}, 99)
    export(loaded, specs, config, tokenizers.characters(ALPHABET), tmp_path / "out", **options)
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


def adapters_of(name, rank=3, alpha=6.0, targets=("*",)):
    """Adapters of a model's matrices, none of them 0."""
    arch = architecture(ModelConfig(**from_hf(cases.CONFIGS[name])), TrainSection(), 0)
    model = Lora(Transformer(arch), rank, alpha, targets)
    drawn = params.init({"lora": model.adapter_specs()}, 0)["lora"]
    rng = np.random.default_rng(0)
    return model, {
        key: pair | {"b": jnp.asarray(rng.normal(0, 0.3, pair["b"].shape), jnp.float32)} for key, pair in drawn.items()
    }


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_adapters_in_peft_form_add_up_to_the_merged_model(tmp_path, name):
    """Keys and shapes as `peft` has them; W + alpha / r B A of the files is the model with adapters added in."""
    tensors, out = exported(tmp_path, name, dtype="float32")
    model, own = adapters_of(name)
    export_adapters(own, model, tmp_path / "adapters", base="here")
    found = load_file(tmp_path / "adapters/adapter_model.safetensors")
    modules = [f"self_attn.{x}_proj" for x in "qkvo"] + [f"mlp.{x}_proj" for x in ("gate", "up", "down")]
    names = [f"model.layers.{i}.{module}" for i in range(model.base.arch.layers) for module in modules]
    assert found.keys() == {f"base_model.model.{key}.lora_{x}.weight" for key in names for x in "AB"}
    base = read(tmp_path / "in", model.base.specs(), make_mesh({}, jax.devices()[:1]))
    merged = jax.jit(model.merged)({"base": base, "lora": own})
    (tmp_path / "merged").mkdir()
    config = json.loads((out / "config.json").read_text())
    export(merged, model.base.specs(), config, tokenizers.characters(ALPHABET), tmp_path / "merged", dtype="float32")
    expected = load_file(tmp_path / "merged/model.safetensors")
    for key in names:
        a, b = (found[f"base_model.model.{key}.lora_{x}.weight"] for x in "AB")
        outputs, inputs = tensors[f"{key}.weight"].shape
        assert (a.shape, b.shape) == ((3, inputs), (outputs, 3))
        np.testing.assert_allclose(
            tensors[f"{key}.weight"] + 2 * b @ a, expected[f"{key}.weight"], rtol=1e-5, atol=1e-6
        )


def test_the_configuration_of_adapters_is_pefts(tmp_path):
    model, own = adapters_of("llama", rank=2, alpha=5.0, targets=("q", "down"))
    export_adapters(own, model, tmp_path, base="a/folder", dtype="bfloat16")
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "a/folder",
        "r": 2,
        "lora_alpha": 5,
        "target_modules": ["down_proj", "q_proj"],
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    found = load_file(tmp_path / "adapter_model.safetensors")
    assert len(found) == 2 * 2 * 2 and {x.dtype for x in found.values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_adapters_of_experts_have_no_form(tmp_path):
    model, own = adapters_of("qwen3_moe", targets=("q", "experts.up"))
    with pytest.raises(ConfigError, match=r"^lora.targets: experts.up: PEFT has no form for adapters of experts$"):
        export_adapters(own, model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft asks transformers for it
def test_peft_loads_the_same_model(tmp_path):
    need("torch")
    need("peft")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    for name in ("llama", "qwen3", "gemma3", "qwen3_moe"):
        (tmp_path / name).mkdir()
        _, out = exported(tmp_path / name, name, dtype="float32")
        model, own = adapters_of(name, targets=("q", "k", "v", "o", "gate", "up", "down"))
        export_adapters(own, model, tmp_path / name / "adapters", base=str(out))
        base = read(tmp_path / name / "in", model.base.specs(), make_mesh({}, jax.devices()[:1]))
        tokens = jnp.asarray(np.random.default_rng(0).integers(2, cases.VOCAB, (1, 12)), jnp.int32)
        whole = {"base": base, "lora": own}
        hidden = jax.jit(model.forward)(whole, tokens, jnp.full(1, 12, jnp.int32), jnp.zeros((1, 1, 1), jnp.int32))
        logits = jnp.einsum("TD,VD->TV", hidden.prompt[0], model.head(whole))
        logits = logits if model.logit_cap is None else model.logit_cap * jnp.tanh(logits / model.logit_cap)
        theirs = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        with torch.no_grad():
            before = theirs(torch.tensor(np.asarray(tokens))).logits[0].numpy()
            adapted = PeftModel.from_pretrained(theirs, tmp_path / name / "adapters")
            after = adapted(torch.tensor(np.asarray(tokens))).logits[0].numpy()
        np.testing.assert_allclose(logits, after, atol=2e-4, rtol=0, err_msg=name)
        assert np.abs(after - before).max() > 0.05, name


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
