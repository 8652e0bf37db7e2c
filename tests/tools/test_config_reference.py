import re
import tomllib
from pathlib import Path

import pytest

from jaxrl_tok.config.load import load_recipe, load_run
from tools import config_reference

PAGE = config_reference.PAGE.read_text()


def test_the_page_is_up_to_date():
    assert PAGE.partition(config_reference.MARK)[2] == "\n" + config_reference.reference()


def test_check_reports_a_page_that_is_out_of_date(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("Words.\n" + config_reference.MARK + "old\n")
    monkeypatch.setattr(config_reference, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["config_reference.py", "--check"])
    assert config_reference.main() == 1
    assert "out of date" in capsys.readouterr().err
    assert page.read_text().endswith("old\n")
    monkeypatch.setattr("sys.argv", ["config_reference.py"])
    assert config_reference.main() == 0
    assert page.read_text() == "Words.\n" + config_reference.MARK + "\n" + config_reference.reference()


@pytest.mark.parametrize("row", ["| `keep_last` | an integer of at least 2 | `2` |", "| `dir` | ", "## [reward.NAME]"])
def test_the_reference_has_keys_of_all_kinds(row):
    assert row in config_reference.reference()


def test_the_examples_of_the_page_load(tmp_path, monkeypatch):
    run, recipe = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text(run)
    Path("recipe.toml").write_text(recipe)
    assert load_run("mine.toml").run.steps == tomllib.loads(run)["run"]["steps"]
    assert load_recipe("recipe.toml").loss.keys() == load_recipe("dapo").loss.keys()
