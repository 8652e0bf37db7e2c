"""Parameters under the names of Hugging Face files, against names and shapes written down without them."""

import numpy as np
import pytest

from jaxrl_tok.config.families import from_hf
from jaxrl_tok.config.schema import ModelConfig, TrainSection
from jaxrl_tok.models import architecture as sizes
from jaxrl_tok.models.names import leaves, parts
from jaxrl_tok.train.build import architecture
from tests.parity import cases


def parts_of(name):
    arch = architecture(ModelConfig(**from_hf(cases.CONFIGS[name])), TrainSection(), 0)
    specs = sizes.specs(arch)
    return {part.name: (path, part) for path, spec in leaves(specs) for part in parts(path, spec, specs["layers"])}


@pytest.mark.parametrize("name", cases.CONFIGS)
def test_every_tensor_of_a_file_is_a_part_of_one_parameter(name):
    assert {key: part.file_shape for key, (_, part) in parts_of(name).items()} == cases.shapes(cases.CONFIGS[name])


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "olmo2"])
def test_to_file_and_back(name):
    for key, (_, part) in parts_of(name).items():
        tensor = cases.draw(cases.CONFIGS[name], 0)[key]
        ours = part.from_file(tensor)
        assert ours.shape == part.shape
        np.testing.assert_array_equal(part.to_file(ours), tensor)


def test_a_projection_has_its_inputs_first_and_its_outputs_by_head():
    # Row n * H + h of the file's q_proj is feature h of head n.
    _, part = parts_of("llama")["model.layers.1.self_attn.q_proj.weight"]
    tensor = np.arange(64 * 32).reshape(64, 32)
    ours = part.from_file(tensor)
    assert part.at == (1,) and ours.shape == (32, 4, 16)
    assert ours[5, 3, 2] == tensor[3 * 16 + 2, 5]
    _, part = parts_of("llama")["model.layers.0.self_attn.o_proj.weight"]
    tensor = tensor.reshape(32, 64)
    assert part.from_file(tensor)[3, 2, 5] == tensor[5, 3 * 16 + 2]


def test_a_run_of_rows_is_a_run_of_heads():
    _, part = parts_of("llama")["model.layers.0.self_attn.k_proj.weight"]
    tensor = np.arange(32 * 32).reshape(32, 32)
    np.testing.assert_array_equal(part.from_file(tensor[16:]), part.from_file(tensor)[:, 1:])


def test_experts_are_apart_in_files_and_together_in_ours():
    path, part = parts_of("qwen3_moe")["model.layers.1.mlp.experts.4.down_proj.weight"]
    assert (path, part.at, part.shape, part.file_shape) == (("layers", "down"), (1, 4), (24, 32), (32, 24))
