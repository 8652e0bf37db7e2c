"""Configuration tables from several places, laid over one another, and where each key was written."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxrl_tok.config import toml
from jaxrl_tok.config.schema import ROLLOUT_SLOTS, SLOTS

Keys = tuple[str, ...]
Table = dict[str, Any]

# Where a run has recipes, and so slots.
RECIPES: tuple[Keys, ...] = (("recipe",), ("warmup", "recipe"))
COMMAND_LINE = "--set"


class Layer(NamedTuple):
    """What one file, or the command line, says, and where in the run its keys stand."""

    label: str
    place: Keys
    table: Table


def merged(layers: Sequence[Layer]) -> Table:
    """Returns one table of all layers, later ones over earlier ones."""
    tree: Table = {}
    for layer in layers:
        tree = merge(tree, nest(layer.place, layer.table))
    return tree


def merge(old: Any, new: Any, path: Keys = ()) -> Any:
    """Lays `new` over `old`, key by key; in a slot, another method leaves nothing of the old one."""
    if _is_slot(path) and isinstance(new, str):
        new = {"method": new}
    if not isinstance(new, dict):
        return new
    if not isinstance(old, dict) or (_is_slot(path) and _methods_differ(old, new)):
        old = {}
    return old | {key: merge(old.get(key), value, (*path, key)) for key, value in new.items()}


def where(layers: Sequence[Layer], path: Keys) -> str:
    """Returns `file: key` for a path of the run, or for a key that is missing there.

    That is the last layer that says something at the path, or else at the table nearest above it; the command
    line only if it alone says all that stands there.
    """
    tree = merged(layers)
    for end in range(len(path), -1, -1):
        place = path[:end]
        saying = [layer for layer in layers if has(tree, place) and _says(layer, place)]
        if len(saying) > 1 and saying[-1].label == COMMAND_LINE:
            # In lists, so that NaN is equal to itself.
            alone = [get(saying[-1].table, place)] == [get(tree, place)]
            saying = saying if alone else saying[:-1]
        if saying:
            return f"{saying[-1].label}: {dotted(path[len(saying[-1].place) :])}"
    raise AssertionError("some layer stands at the top")


def dotted(path: Iterable[str]) -> str:
    """Returns a path as a TOML key."""
    return ".".join(map(toml.key, path))


def get(table: Any, path: Iterable[str]) -> Any:
    """Returns what stands at a path; None where nothing does."""
    for key in path:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def has(table: Any, path: Iterable[str]) -> bool:
    """Whether something stands at a path."""
    for key in path:
        if not isinstance(table, dict) or key not in table:
            return False
        table = table[key]
    return True


def without(table: Table, path: Keys) -> Table:
    """Returns the table without what stands at a path."""
    first, rest = path[0], path[1:]
    if not rest:
        return {key: value for key, value in table.items() if key != first}
    inner = table.get(first)
    return table | {first: without(inner, rest)} if isinstance(inner, dict) else table


def nest(path: Keys, value: Any) -> Any:
    """Returns a table that has the value at a path and nothing else."""
    for key in reversed(path):
        value = {key: value}
    return value


def _says(layer: Layer, path: Keys) -> bool:
    above = len(layer.place)
    return path[:above] == layer.place and has(layer.table, path[above:])


def _methods_differ(old: Table, new: Table) -> bool:
    return "method" in old and "method" in new and old["method"] != new["method"]


def _is_slot(path: Keys) -> bool:
    """Whether a method stands at this path of a run."""
    for place in RECIPES:
        if path[: len(place)] == place:
            match path[len(place) :]:
                case (slot,):
                    return slot in (*ROLLOUT_SLOTS, *SLOTS)
                case ("loss", _) | ("loss", _, "reduction"):
                    return True
    return False
