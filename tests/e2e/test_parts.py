"""Runs with parts beside the model: adapters on a frozen base, a critic's head."""

import contextlib
import json
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from jaxrl_tok.cli import app
from jaxrl_tok.config.load import load_run
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.io.checkpoint import Checkpoints
from jaxrl_tok.io.metrics import read_lines
from jaxrl_tok.models import Lora
from jaxrl_tok.train import session
from jaxrl_tok.train.build import init_state, stored
from tests.e2e.command import train, write

# optax and the loop's host code are not written for strict promotion.
pytestmark = pytest.mark.usefixtures("standard_promotion")

SMALL = ("mesh.preset=single", "rollout.max_tokens=6", "run.steps=3", "optimizer.learning_rate=0.01")
LORA = ("lora.rank=2", "lora.alpha=8.0", *SMALL)


def states(folder, *sets):
    """What a run starts from, and its state at the newest checkpoint."""
    run = load_run(folder / "run.toml", [*sets, f"run.dir={folder / 'runs/run'}"])
    with contextlib.chdir(folder):
        built, _ = session._build(run, folder / "run.toml")
    with Checkpoints(folder / "runs/run/checkpoints", read_only=True) as checkpoints:
        restored = checkpoints.restore(stored(built, built.main.template))
    return init_state(built), restored.state


def lines(folder):
    found = read_lines(folder / "runs/run/metrics.jsonl")
    return [{k: v for k, v in line.items() if not k.startswith(("time/", "perf/"))} for line in found]


def same(x, y):
    assert jax.tree.structure(x) == jax.tree.structure(y)
    return [np.array_equal(a, b) for a, b in zip(jax.tree.leaves(x), jax.tree.leaves(y), strict=True)]


def exported(folder, *arguments):
    """Runs `jaxrl-tok export` as a user in `folder` would; returns the tensors of the one file by name."""
    with contextlib.chdir(folder):
        result = CliRunner().invoke(app, ["export", "run.toml", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    (file,) = (folder / arguments[0]).glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A finished run with adapters and a reference."""
    folder = write(tmp_path_factory.mktemp("adapted") / "run")
    sets = (*LORA, "recipe=grpo_kl", "run.keep_every=1")
    assert train(folder, *sets).code == 0
    return folder, sets


@pytest.mark.slow
def test_updates_move_the_adapters_and_leave_the_base(adapted):
    first, last = states(adapted[0], *adapted[1])
    assert all(same(first.frozen, last.frozen)) and len(jax.tree.leaves(last.frozen)) == 11
    assert not any(same(first.params, last.params)) and len(jax.tree.leaves(last.params)) == 2 * 7
    # Nothing but adapters is trained: both of Adam's averages are of their size, and the reference is the base itself.
    size = sum(x.size for x in jax.tree.leaves(last.params))
    assert sum(x.size for x in jax.tree.leaves(last.opt_state) if x.ndim) == 2 * size
    assert last.ref_params is None


@pytest.mark.slow
def test_rollouts_see_the_adapters_and_the_reference_does_not(adapted):
    for line in lines(adapted[0])[1:]:
        assert line["sampling/sampling_logp_difference/max"] < 1e-4
    assert lines(adapted[0])[1]["kl"] < 1e-9
    assert lines(adapted[0])[3]["kl"] > 1e-3


@pytest.mark.slow
def test_a_run_with_adapters_goes_on_to_the_same_bits(adapted, tmp_path):
    folder = write(tmp_path / "run")
    sets = (*LORA, "recipe=grpo_kl")
    assert train(folder, *sets, "run.steps=2").code == 0
    assert "resumed at step 2" in train(folder, *sets).out
    assert lines(folder) == lines(adapted[0])
    assert all(same(states(folder, *sets)[1], states(adapted[0], *adapted[1])[1]))


@pytest.mark.slow
def test_rollouts_that_do_not_see_the_adapters_end_the_run(tmp_path, monkeypatch):
    """As where the sampler keeps weights of its own, and the push of the trained ones forgets the adapters."""

    def of_the_base(name):
        own = getattr(Lora, name)
        return lambda self, params, *rest: own(self, params | {"lora": {}}, *rest)

    for name in ("prefill", "for_decoding"):
        monkeypatch.setattr(Lora, name, of_the_base(name))
    # With a rank that no other test has: compiled programs know nothing of the patch.
    ended = train(write(tmp_path / "run"), *LORA, "lora.rank=3", "optimizer.learning_rate=0.1", "run.steps=6")
    line = ended.error(code=3)
    assert "after updates of the adapters, sampler and trainer are" in line
    assert "the rollouts come from other weights than those that are trained" in line


@pytest.mark.slow
def test_a_run_with_adapters_is_exported_in_three_forms(adapted, tmp_path):
    folder, sets = adapted
    options = [f"--set={item}" for item in sets]
    first, last = states(folder, *sets)
    base = exported(folder, "base", "--part", "base", "--dtype", "float32", *options)
    own = exported(folder, "adapters", "--part", "adapters", *options)
    merged = exported(folder, "merged", "--dtype", "float32", *options)
    name = "model.layers.0.mlp.down_proj"
    np.testing.assert_array_equal(base[f"{name}.weight"], np.asarray(first.frozen["base"]["layers"]["down"][0]).T)
    assert len(own) == 2 * 7 and len(base) == len(merged) == 11
    for key in base:
        a, b = (own.get(f"base_model.model.{key.removesuffix('weight')}lora_{x}.weight") for x in "AB")
        product = 0 if a is None else 8 / 2 * (b @ a)
        np.testing.assert_allclose(merged[key], base[key] + product, rtol=1e-5, atol=1e-6, err_msg=key)
    a, b = (own[f"base_model.model.{name}.lora_{x}.weight"] for x in "AB")
    np.testing.assert_array_equal(a, np.asarray(last.params["lora"]["down"]["a"][0]).T)
    np.testing.assert_array_equal(b, np.asarray(last.params["lora"]["down"]["b"][0]).T)
    config = json.loads((folder / "adapters/adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["r"], config["lora_alpha"]) == ("LORA", "CAUSAL_LM", 2, 8)


@pytest.mark.parametrize("part", ["adapters", "base"])
def test_a_run_without_adapters_has_one_form(part, tmp_path):
    folder = write(tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"run.toml: lora.rank = 0: expected adapters in a run .* the {part}$"):
        session.export(folder / "run.toml", [], tmp_path / "out", None, part, None)


# ---- On pretrained weights.


@pytest.fixture(scope="module")
def weights(adapted, tmp_path_factory):
    """A folder in Hugging Face form to start from."""
    folder, sets = adapted
    shutil.rmtree(folder / "first", ignore_errors=True)
    exported(folder, "first", "--part", "base", "--dtype", "float32", *(f"--set={item}" for item in sets))
    return folder / "first"


def started_from(folder, weights):
    """Writes a run that starts from the weights: their configuration gives the model and the tokenizer."""
    write(folder)
    text = (folder / "run.toml").read_text()
    before, model, after = (
        text.partition("[model]")[0],
        f'[model]\nweights = "{weights}"\n',
        text[text.index("[run]") :],
    )
    after = after.replace('[tokenizer]\nalphabet = "0123456789+="\n', "")
    (folder / "run.toml").write_text(before + model + after)
    return folder


@pytest.mark.slow
def test_a_checkpoint_leaves_out_weights_that_can_be_read_again(weights, tmp_path):
    folder = started_from(tmp_path / "run", weights)
    sets = (*LORA, "run.steps=2")
    assert train(folder, *sets).code == 0
    first, last = states(folder, *sets)
    assert len(jax.tree.leaves(first.frozen)) == 11 and last.frozen is None
    # The same command with more steps reads the base again, and goes on.
    assert "resumed at step 2" in train(folder, *LORA).out
    (file,) = weights.glob("*.safetensors")
    tensors = load_file(file)
    other = shutil.copytree(weights, tmp_path / "other")
    tensors["model.norm.weight"][3] += np.float32(1e-6)
    save_file(tensors, other / file.name, {"format": "pt"})
    shutil.rmtree(weights)
    other.rename(weights)
    line = train(folder, *LORA, "run.steps=4").error()
    assert "its adapters were trained on other weights than those in" in line and str(weights) in line


# ---- With a critic.

CRITIC = ("optimizer.learning_rate=1e-3", "critic.learning_rate=0.05", *SMALL[:2])
REWARD = "def length(prompts, completions):\n    return [float(p == '1+2=') for p in prompts]\n"
PREFIX_TREE = ("advantage.target=prefix_tree", "loss.value={method='value_regression', reduction='token_mean'}")


def judged_by_prompt(folder):
    """Writes a run of one question in four that is rewarded, whatever the completion: only the critic can learn."""
    write(folder)
    # A module is imported once a process: another name for another content.
    (folder / "my_rewards.py").write_text(REWARD)
    return folder


@pytest.mark.parametrize(
    "sets",
    [
        pytest.param(("recipe=ppo", "critic.trunk=detached", "train.epochs=2"), marks=pytest.mark.slow),
        pytest.param(("recipe=ma_rlhf", "critic.trunk=shared", "lora.rank=2"), marks=pytest.mark.slow),
        pytest.param(("recipe=ppo", "critic.trunk=shared", *PREFIX_TREE), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_a_critic_learns_which_question_is_rewarded(sets, tmp_path):
    folder = judged_by_prompt(tmp_path / "run")
    ended = train(folder, *CRITIC, *sets, "run.steps=80")
    assert ended.code == 0, ended
    found = lines(folder)[1:]
    losses = [line["loss/value"] for line in found]
    # Half the squared error; a quarter of the returns is 1, so no constant value gets below 3/16 of it.
    least = (1.0 if PREFIX_TREE[1] in sets else 0.5) * 3 / 16
    if "train.epochs=2" not in sets:  # else the line is of the second update
        assert found[0]["critic/values/mean"] == 0 and losses[0] > least
    assert losses[-1] < least / 2, losses


@pytest.mark.slow
def test_the_head_has_its_own_learning_rate(tmp_path):
    folder = judged_by_prompt(tmp_path / "run")
    sets = (*CRITIC, "recipe=ppo", "critic.trunk=shared", "run.steps=1")
    assert train(folder, *sets).code == 0
    first, last = states(folder, *sets)
    moved = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), first.params, last.params)
    # Adam's first step is its learning rate in every coordinate that has a gradient.
    np.testing.assert_allclose(jax.tree.leaves(moved["value"]), 0.05, rtol=1e-3)
    np.testing.assert_allclose(max(jax.tree.leaves(moved["policy"])), 1e-3, rtol=1e-3)


@pytest.mark.parametrize(
    ("sets", "line"),
    [
        (
            ("recipe=ppo",),
            "recipe ppo: advantage = 'gae' reads 'values', which nothing in this run supplies: it needs a critic "
            '(critic.trunk = "shared" or "detached")',
        ),
        (
            ("critic.trunk=shared",),
            'critic.trunk = "shared": recipe grpo reads no values; expected "off"',
        ),
        (
            ("lora.rank=2", "lora.targets=['qq']"),
            "lora.targets: no matrix is called 'qq'; did you mean 'q'?",
        ),
    ],
)
def test_parts_that_do_not_fit_the_recipe_are_refused(sets, line, tmp_path):
    assert train(write(tmp_path / "run"), *SMALL, *sets).error() == line
