"""Writes the reference part of docs/configuration.md from the schema.

    tools/run python tools/config_reference.py [--check]

With `--check` it writes nothing and fails if the page is out of date.
"""

import argparse
import sys
import textwrap
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxrl_tok.config import explain, toml
from jaxrl_tok.config.derived import FREE
from jaxrl_tok.config.schema import LossTerm, Method, OwnModelConfig, RopeConfig, Run

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"
MARK = "<!-- What follows is written by tools/config_reference.py. -->\n"
# What the schema gives a default only after reading: the loader fills these in.
FILLED = {"run.name": "the file's name", "run.dir": "`runs/NAME`", "warmup.recipe": '`"sft"`'}
# Headings of the sections whose tables do not stand in the run file under their own name.
TITLES = {"model": "Model file", "recipe": "Recipe file", "reward": "[reward.NAME]"}
FREE_TEXT = (
    ", ".join(f"`{key}`" for key in FREE) + ", and `run.steps` where `optimizer.schedule` is `constant`; the name of "
    "a section stands for all its keys. Any other difference from what the run folder holds is "
    "refused; a key that is newer than a checkpoint had its default there."
)


def reference() -> str:
    """Returns the reference: one table a section, in the order of the run file, then the other files."""
    top = {name: field for name, field in Run.model_fields.items() if name not in ("model", "recipe")}
    parts = [_section(name, field) for name, field in top.items()]
    parts += [_section(name, Run.model_fields[name]) for name in ("model", "recipe")]
    parts.append(_table("[rope], [local_rope] in a model file", "", RopeConfig))
    parts.append(_table("Model of your own", "", OwnModelConfig))
    parts.append(_table("Slot", "", Method))
    parts.append(_table("[loss.NAME]", "", LossTerm))
    parts.append("## What a resumed run may change\n\n" + textwrap.fill(FREE_TEXT, 120))
    return "\n\n".join(parts) + "\n"


def _section(name: str, field: FieldInfo) -> str:
    annotation = explain.inner(field.annotation)
    section = annotation if explain.is_section(annotation) else annotation.__args__[1]
    return _table(TITLES.get(name, f"[{name}]"), f"{name}.", section)


def _table(title: str, prefix: str, section: type[BaseModel]) -> str:
    rows = [
        f"| `{key}` | {explain.expected(field)} | {_default(prefix + key, field)} | {_line(field.description)} |"
        for key, field in section.model_fields.items()
    ]
    head = [
        f"## {title}",
        "",
        str(section.__doc__),
        "",
        "| key | takes | default | meaning |",
        "|---|---|---|---|",
    ]
    return "\n".join(head + rows)


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _default(path: str, field: FieldInfo) -> str:
    if path in FILLED:
        return FILLED[path]
    if field.is_required():
        return "must be given"
    if field.default is None or field.default == "" or isinstance(field.default, BaseModel):
        return ""
    text = toml.value(field.default)
    return f"`{text}`" if len(text) < 40 else ""


def main() -> int:
    """Writes or checks the page."""
    parser = argparse.ArgumentParser(description="Writes the reference part of docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the page is out of date")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    written = page.partition(MARK)[0] + MARK + "\n" + reference()
    if page == written:
        return 0
    if check:
        print(f"{PAGE.name} is out of date: run tools/config_reference.py", file=sys.stderr)
        return 1
    PAGE.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
