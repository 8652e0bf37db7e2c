import json

import pytest

from tools import compare_recipes


def write(folder, values):
    folder.mkdir()
    rows = [{"step": step, "eval/avg@8": value, "entropy": 0.5} for step, value in values.items()]
    rows.insert(1, {"step": 1, "entropy": 0.4})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_the_table_has_means_spreads_and_every_gain(tmp_path):
    write(tmp_path / "a", {0: 0.25, 40: 0.5})
    write(tmp_path / "b", {0: 0.35, 40: 0.75})
    curves = {"grpo": [compare_recipes.curve(tmp_path / name) for name in "ab"]}
    assert curves["grpo"][0][40] == {"eval/avg@8": 50.0, "entropy": 0.5}
    lines = compare_recipes.table(curves, "eval/avg@8").splitlines()
    assert lines[0] == "| avg@8 | 0 | 40 | gain | gain, by seed |"
    assert lines[2] == "| grpo | 30.0 (10.0) | 62.5 (25.0) | +32.5 | +25.0, +40.0 |"


def test_a_failed_run_is_named_and_its_log_kept(tmp_path, monkeypatch, capsys):
    argv = ["compare_recipes.py", "--recipes", "grpoo", "--seeds", "0", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", argv)
    assert compare_recipes.main() == 1
    log = tmp_path / "grpoo-0.log"
    assert str(log) in capsys.readouterr().err
    assert "did you mean 'grpo'" in log.read_text()


@pytest.mark.parametrize("name", compare_recipes.RECIPES)
def test_the_compared_recipes_exist(name):
    from jaxrl_tok.config.load import load_recipe

    assert load_recipe(name).name == name
