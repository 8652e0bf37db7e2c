"""`model.weights` fills the architecture and the tokenizer, and what a file says beside it has to agree."""

import json

import pytest

from jaxrl_tok.config.load import dump_toml, load_model, load_run
from jaxrl_tok.errors import ConfigError
from tests.parity.cases import CONFIGS

RUN = 'recipe = "grpo"\n[model]\nweights = "w"\n[reward.right]\nfunction = "verifier"\n'


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with a run file and a model's `config.json`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").mkdir()
    (tmp_path / "w/config.json").write_text(json.dumps(CONFIGS["gemma3"]))
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def test_one_line_is_a_model(folder):
    (folder / "m.toml").write_text('weights = "w"\n')
    model = load_model("m.toml")
    assert (model.name, model.layers, model.norms, model.logit_cap) == ("m", 2, "both", 4.0)
    assert (model.rope.scaling, model.rope.factor, model.local_rope.theta) == ("linear", 8.0, 100.0)
    assert model.sliding == (True, False)


def test_the_tokenizer_is_beside_the_weights_unless_another_is_named():
    run = load_run("run.toml")
    assert (run.tokenizer.kind, run.tokenizer.path) == ("folder", "w")
    assert load_run("run.toml", ["tokenizer.kind=characters"]).tokenizer.path is None


def test_a_resolved_run_loads_to_itself(folder):
    run = load_run("run.toml")
    (folder / "run.toml").write_text(dump_toml(run))
    assert load_run("run.toml") == run


def test_keys_that_agree_may_be_written():
    assert load_run("run.toml", ["model.layers=2", "model.rope.theta=5000"]).model.layers == 2


def test_keys_that_differ_are_named_with_their_file(folder):
    (folder / "run.toml").write_text(RUN.replace("[reward", "layers = 3\n[reward"))
    with pytest.raises(ConfigError) as caught:
        load_run("run.toml", ["model.rope.theta=7", "model.qk_norm=whole"])
    assert str(caught.value).split("\n") == [
        "run.toml: model.layers = 3: expected 2, as w/config.json says",
        "--set: model.rope.theta = 7: expected 5000.0, as w/config.json says",
        '--set: model.qk_norm = "whole": expected "head", as w/config.json says',
    ]


def test_a_folder_that_is_not_there():
    with pytest.raises(ConfigError, match=r"^nowhere/config\.json: no such file: expected a folder with a model"):
        load_run("run.toml", ["model.weights=nowhere"])


def test_smollm2_needs_no_file():
    run = load_run("run.toml", ["model.weights=smollm2"])
    assert (run.tokenizer.kind, run.model.layers, run.model.dim, run.model.vocab) == ("smollm2", 30, 576, 49152)
    assert load_model("smollm2_135m").weights == "smollm2"
