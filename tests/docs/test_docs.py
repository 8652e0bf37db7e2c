"""Every Python block of the README and of docs/ runs, the blocks of a page one after the other."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [page for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))) if page.exists()]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = [page for page in PAGES if BLOCK.search(page.read_text())]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_python_blocks_run(page, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)  # for a block that writes a file
    text = page.read_text()
    namespace = {"__name__": "__docs__"}
    for block in BLOCK.finditer(text):
        above = text[: block.start(1)].count("\n")
        # So that a failure names the line of the page.
        exec(compile("\n" * above + block.group(1), str(page), "exec"), namespace)
    if page.name == "library.md":
        printed = capsys.readouterr().out
        assert "[[[ 1.15" in printed  # GRPO's advantage of the right answer, on the shared first token


def test_library_page_shows_tempo_in_twelve_lines():
    block = BLOCK.search((ROOT / "docs" / "library.md").read_text()).group(1)
    assert "jax.jit(tempo)" in block
    assert len(block.strip().splitlines()) <= 12


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([\w./-]+\.md)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
