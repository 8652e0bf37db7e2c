from pathlib import Path

from jaxrl_tok.train.recipe import REGISTRIES
from tools import methods_table as tool

ROOT = Path(__file__).parents[2]


def run(monkeypatch, page, *arguments):
    monkeypatch.setattr(tool, "PAGE", page)
    monkeypatch.setattr("sys.argv", ["methods_table.py", *arguments])
    return tool.main()


def test_the_page_in_the_repository_is_up_to_date(monkeypatch):
    assert run(monkeypatch, ROOT / "docs" / "methods.md", "--check") == 0


def test_a_stale_page_fails_the_check_until_it_is_written(monkeypatch, tmp_path, capsys):
    page = tmp_path / "methods.md"
    assert run(monkeypatch, page, "--check") == 1
    assert run(monkeypatch, page) == 0
    assert run(monkeypatch, page, "--check") == 0
    page.write_text(page.read_text().replace("`eps = 1e-06`", "`eps = 1e-05`"))
    assert run(monkeypatch, page, "--check") == 1
    assert "out of date" in capsys.readouterr().err


def test_every_method_has_a_row_with_a_link():
    text = tool.page()
    for slot, methods in REGISTRIES.items():
        assert f"## {slot}\n" in text
        for name in methods:
            assert f"| [`{name}`](https://arxiv.org/abs/" in text
