"""The README's tree is the present tree, its commands exist, its program prints what stands below it."""

import itertools
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jaxrl_tok.cli import app
from jaxrl_tok.config.load import load_run
from jaxrl_tok.rollouts import ROLLOUTS
from jaxrl_tok.samplers import TEMPERATURES
from jaxrl_tok.train.recipe import REGISTRIES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
TREE = re.search(r"## The tree\n\n```text\n(.*?)```", README, re.DOTALL).group(1)
COMMANDS = re.findall(r"^tools/run jaxrl-tok (.*?)(?: +#.*)?$", README, re.MULTILINE)


def folders():
    """The lines of the tree about each folder of the package; "." for the package itself."""
    found = {}
    for line in TREE.split("jaxrl_tok/\n")[1].splitlines():
        if re.match(r"  \w", line):
            names = re.findall(r"(\w+)/", re.match(r"  ((\w+/ *)*)", line).group(1)) or ["."]
        for name in names:
            found[name] = found.get(name, "") + line + "\n"
    return found


# A file a function: the table of methods has the slots', and nothing but its folder need say what a score is.
BY_NAME = {"advantages", "filters", "token_weights", "ratios", "clips", "losses", "reductions", "scores"}


def test_every_module_stands_in_the_tree_under_its_folder():
    text = folders()
    assert text.keys() >= BY_NAME
    for module in sorted((ROOT / "jaxrl_tok").rglob("*.py")):
        parts = module.relative_to(ROOT / "jaxrl_tok").parts
        if module.name != "__init__.py" and parts[0] not in BY_NAME:
            assert re.search(rf"\b{module.stem}\b", text["." if len(parts) == 1 else parts[0]]), module


def test_everything_in_the_tree_exists():
    for folder, lines in folders().items():
        assert (ROOT / "jaxrl_tok" / folder).is_dir()
        for name in re.findall(r"\b\w+\.py\b", lines):
            assert list((ROOT / "jaxrl_tok" / folder).rglob(name)), name
    for name in re.findall(r"^(?:  )?([\w.]+/(?:run)?)", TREE.split("jaxrl_tok/\n")[0], re.MULTILINE):
        assert (ROOT / name).exists() or (ROOT / "configs" / name).exists(), name


def test_every_page_is_listed():
    listed = set(re.findall(r"\]\(docs/([\w.]+)\)", README.split("## Where to read on")[1]))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_those_of_the_command_line(command, monkeypatch):
    name, *rest = shlex.split(command)
    monkeypatch.chdir(ROOT)
    if rest and rest[0].endswith(".toml"):
        load_run(rest[0], [b for a, b in itertools.pairwise(rest) if a == "--set"])
    options = [part for part in rest if part.startswith("--")]
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
    assert all(option in text for option in options), text


def test_the_program_prints_what_stands_below_it(capsys):
    program, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    assert len(program.strip().splitlines()) <= 10
    exec(program, {})
    assert capsys.readouterr().out == output


def test_methods_are_those_there_are():
    table = README.split("## What is there")[1].split("\n\n[docs/methods.md]")[0]
    registries = [*REGISTRIES.values(), ROLLOUTS, TEMPERATURES]
    assert set(re.findall(r"`(\w+)`", table)) == {name for methods in registries for name in methods}
