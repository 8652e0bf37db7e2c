"""Runs that score what a group shares once, as often as it stands there, and once a prompt: the same run."""

import numpy as np
import pytest

from jaxrl_tok.io.metrics import read_lines
from tests.e2e.command import train, write

pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = ("mesh.preset=single", "rollout.max_tokens=6", "optimizer.learning_rate=0.01", "run.steps=3")
PARTS = ("recipe=grpo_kl", "rollout.top_p=0.9", "train.minibatches=2", "train.microbatches=2")
CRITIC = ("recipe=ma_rlhf", "critic.trunk=shared")


def lines(folder, *sets):
    """Metrics of a finished run, but for its times."""
    folder = write(folder)
    assert train(folder, *SMALL, *sets).code == 0
    found = read_lines(folder / "runs/run/metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "perf/"))} for line in found]


@pytest.mark.slow
@pytest.mark.parametrize("sets", [PARTS, CRITIC], ids=["parts", "critic"])
def test_what_is_shared_changes_only_rounding(sets, tmp_path):
    runs = {how: lines(tmp_path / how, *sets, f"train.share_prefix={how}") for how in ("none", "prompt", "tree")}
    assert len(runs["tree"]) == 4 and runs["tree"][-1]["grad_norm"] > 1e-3
    for how in ("none", "tree"):
        for line, other in zip(runs[how], runs["prompt"], strict=True):
            assert line.keys() == other.keys()
            for key, value in other.items():
                if isinstance(value, float):
                    np.testing.assert_allclose(line[key], value, rtol=1e-3, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_layouts_may_change_in_the_middle_of_a_run(tmp_path):
    first = train(write(tmp_path / "run"), *SMALL, "run.steps=2")
    assert first.code == 0
    on = train(tmp_path / "run", *SMALL, "train.share_prefix=tree")
    assert on.code == 0 and "resumed at step 2" in on.out
