"""The same step on every mesh: docs/numerics.md has the bounds."""

import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.place import shard_batch
from jaxrl_tok.sharding.rules import param_shardings
from jaxrl_tok.train.build import init_state
from jaxrl_tok.train.compilation import compiled
from jaxrl_tok.train.score import score_batch
from tests import tiny
from tests.e2e import meshes
from tests.train import cases


def scored(**sizes):
    """Log-probs by a small model with experts, on a mesh of these sizes."""
    model = tiny.model(layers=1, vocab=38, experts=4, experts_per_token=2, tied=False)
    mesh = make_mesh(sizes, jax.devices()[: math.prod(sizes.values())])
    params = jax.device_put(tiny.weights(model), param_shardings(model.specs(), mesh))
    program = compiled(lambda params, batch: score_batch(params, model, batch).logprobs, mesh)
    return np.asarray(program(params, shard_batch(cases.batch("dapo"), mesh)))


@pytest.mark.slow
def test_four_devices_that_split_experts_heads_and_vocabulary_score_as_one():
    expected = scored(data=1)
    assert expected.min() < -3
    np.testing.assert_allclose(scored(expert=2, tensor=2), expected, rtol=1e-6, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("model", meshes.MODELS)
def test_eight_devices_take_the_step_of_one_under_every_preset(tmp_path, model):
    """In a process of its own, as this one has four."""
    # With experts, fsdp splits the batch as data does.
    names = [mesh for mesh in meshes.MESHES if model == "dense" or mesh not in ("single", "data")]
    cases, out = [f"{mesh}/{model}" for mesh in names], tmp_path / "found.json"
    settings = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command = [sys.executable, "-m", "tests.e2e.meshes", str(out), *cases]
    ended = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=3600)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(out.read_text())
    assert [*found] == cases
    for case, off in found.items():
        print(case, off)
        assert off["size of the loss"] > 0.05 and off["least gradient"] > 1e-4, (case, off)
        assert off["tokens"] == 0 and off["first parameters"] == 0, (case, off)
        assert off["logprobs"] <= 1e-5, (case, off)
        assert off["loss"] <= 1e-6 and off["gradients"] <= 2e-6 and off["parameters"] <= 1e-6, (case, off)


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_what_the_optimizer_keeps_lies_as_the_parameters_do():
    """Adam's moments, and each matrix split over both axes."""
    state = init_state(meshes.built(4, "mesh.preset=fsdp_tensor"))
    (adam,) = (part for part in state.opt_state if hasattr(part, "mu"))
    flat = jax.tree_util.tree_leaves_with_path(state.params)
    for (path, param), mu, nu in zip(flat, *map(jax.tree.leaves, (adam.mu, adam.nu)), strict=True):
        name = jax.tree_util.keystr(path)
        assert mu.sharding == nu.sharding == param.sharding, name
        parts = 1 if "norm" in name else 4
        assert {x.data.size for x in mu.addressable_shards} == {param.size // parts}, name


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
def test_what_is_kept_between_layers_is_split_by_position_too():
    """Of all three layers and 4 of 8 prompts, 8 + 2 * 8 positions are kept in halves, and never whole."""
    text = meshes.hlo_of_update(meshes.built(4, "mesh.fsdp=2", "mesh.sequence=2", "train.remat=full", "model.layers=3"))
    assert "f32[3,4,12,32]" in text and "f32[3,4,24,32]" not in text
    text = meshes.hlo_of_update(meshes.built(4, "mesh.fsdp=2", "mesh.data=2", "train.remat=full", "model.layers=3"))
    assert "f32[3,2,24,32]" in text
