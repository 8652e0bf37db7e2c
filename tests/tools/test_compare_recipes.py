import json
from pathlib import Path

import pytest

from jaxrl_tok.config.load import load_run
from tools import compare_recipes

ROOT = Path(__file__).parents[2]


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


@pytest.mark.parametrize(
    "name", sorted({*compare_recipes.COMPARISONS["credit"], *compare_recipes.COMPARISONS["rollouts"]})
)
def test_the_compared_recipes_exist_and_their_files_say_how_they_run(name):
    assert compare_recipes.settings(name)[0] == f"recipe={name}"
    load_run(ROOT / "configs/runs/quickstart.toml", compare_recipes.settings(name))


def test_curves_of_sampled_tokens_are_read_near_the_same_marks():
    found = {0: {"x": 1.0}, 90: {"x": 2.0}, 110: {"x": 3.0}, 230: {"x": 4.0}, 410: {"x": 5.0}}
    marked = compare_recipes.at_marks(found, 400)
    assert {mark: values["x"] for mark, values in marked.items()} == {0: 1.0, 100: 2.0, 200: 4.0, 300: 4.0, 400: 5.0}
