"""The table of methods, read off their signatures and docstrings."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from jaxrl_tok.config.bind import split_signature


@dataclasses.dataclass(frozen=True)
class Row:
    """What the table says of one method."""

    slot: str
    name: str
    reads: tuple[str, ...]
    optional: tuple[str, ...]
    hyper: Mapping[str, str]  # name -> default as written, "" for one that must be set
    summary: str
    source: str  # link to the paper, "" for a method without one


def rows(registries: Mapping[str, Mapping[str, Callable[..., Any]]]) -> list[Row]:
    """Returns one row a method, in the order of the slots and of each slot's registry."""
    return [_row(slot, name, fn) for slot, methods in registries.items() for name, fn in methods.items()]


def markdown(table: list[Row]) -> str:
    """Renders rows as one Markdown table a slot."""
    lines: list[str] = []
    for slot in dict.fromkeys(row.slot for row in table):
        lines += [
            f"## {slot}",
            "",
            "| method | reads | hyperparameters | what it gives |",
            "|---|---|---|---|",
        ]
        lines += [_markdown_row(row) for row in table if row.slot == slot]
        lines.append("")
    return "\n".join(lines)


def _row(slot: str, name: str, fn: Callable[..., Any]) -> Row:
    reads, optional, hyper = split_signature(fn)
    doc = inspect.getdoc(fn) or ""
    link = re.search(r"https://arxiv\.org/abs/[\w.]+\d", doc)
    return Row(
        slot=slot,
        name=name,
        reads=reads,
        optional=optional,
        hyper={key: "" if p.default is p.empty else _written(p.default) for key, p in hyper.items()},
        summary=doc.partition("\n")[0],
        source=link.group() if link else "",
    )


def _written(value: Any) -> str:
    """Writes a default as a recipe would; None, which TOML cannot say, is "unset"."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _markdown_row(row: Row) -> str:
    reads = [f"`{name}`" for name in row.reads] + [f"`{name}`?" for name in row.optional]
    hyper = [f"`{key} = {default}`" if default else f"`{key}` (to be set)" for key, default in row.hyper.items()]
    name = f"[`{row.name}`]({row.source})" if row.source else f"`{row.name}`"
    return f"| {name} | {', '.join(reads)} | {', '.join(hyper) or 'none'} | {row.summary} |"
