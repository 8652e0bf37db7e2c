"""Configurations as TOML text; reading is the standard library's."""

import json
import re
from collections.abc import Mapping
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def dump(table: Mapping[str, Any]) -> str:
    """Returns TOML that reads back as `table`; keys whose value is None are left out.

    A table that names a `method` and holds no other table stays on one line, as recipes are written.
    """
    return "\n".join(_section(table, ())).strip() + "\n"


def value(x: Any) -> str:
    """Returns one value as TOML, on one line."""
    match x:
        case bool():
            return "true" if x else "false"
        case str():
            # JSON's escapes are TOML's, except that TOML also wants DEL escaped.
            return json.dumps(x, ensure_ascii=False).replace("\x7f", "\\u007f")
        case int() | float():
            return repr(x)
        case Mapping():
            items = ", ".join(f"{key(k)} = {value(v)}" for k, v in x.items() if v is not None)
            return f"{{ {items} }}" if items else "{}"
        case list() | tuple():
            return f"[{', '.join(value(item) for item in x)}]"
        case _:  # dates and times, which TOML has too
            return x.isoformat()


def key(name: str) -> str:
    """Returns a key, in quotes where TOML needs them."""
    return name if _BARE_KEY.fullmatch(name) else value(name)


def _section(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    nested = {k: v for k, v in table.items() if isinstance(v, Mapping) and not _on_one_line(v)}
    lines = [f"{key(k)} = {value(v)}" for k, v in table.items() if v is not None and k not in nested]
    # A table that holds only tables needs no header of its own; an empty one does.
    if path and (lines or not nested):
        lines.insert(0, f"\n[{'.'.join(map(key, path))}]")
    for k, v in nested.items():
        lines += _section(v, (*path, k))
    return lines


def _on_one_line(table: Mapping[str, Any]) -> bool:
    return "method" in table and not any(isinstance(v, Mapping) for v in table.values())
