"""From files and `--set` to a resolved, checked `Run`; every error names the file, the key and the value.

What the files say is kept as layers. They are merged and then validated as one, and a fault is looked up in
them again to say where it was written.
"""

import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from jaxrl_tok.config import explain, rules, toml
from jaxrl_tok.config.layers import (
    COMMAND_LINE,
    Keys,
    Layer,
    Table,
    dotted,
    get,
    merge,
    merged,
    nest,
    where,
    without,
)
from jaxrl_tok.config.pretrained import pretrained_layers
from jaxrl_tok.config.schema import MODEL_TAGS, SLOTS, ModelConfig, RecipeConfig, Run
from jaxrl_tok.errors import ConfigError, nearest

Section = TypeVar("Section", bound=BaseModel)

# Where a run names a file of its own: the kind of file, and the name where the run gives none.
_NAMED: dict[Keys, tuple[str, str | None]] = {
    ("model",): ("models", None),
    ("recipe",): ("recipes", None),
    ("warmup", "recipe"): ("recipes", "sft"),
}


def load_run(path: str | Path, sets: Sequence[str] = ()) -> Run:
    """Returns the run that a file describes, with its model, its recipes and the `--set`s laid over it.

    Args:
      path: run file, or the resolved configuration in a run folder.
      sets: `key=value` each: a dotted path as in the file, and a TOML value or else a plain string. A path
        that starts with a slot (`clip.high=1.28`, `loss.policy.weight=0.5`) is about the run's recipe.

    Raises:
      ConfigError: one line for each thing that is wrong.
    """
    path = Path(path)
    table = _read(path)
    names, overrides = _overrides(sets)
    layers: list[Layer] = []
    for place, (kind, default) in _NAMED.items():
        written = get(table, place)
        name = names.get(place, default if written is None else written)
        if isinstance(name, str):
            label = COMMAND_LINE if place in names else _label(path)
            layers += _file_layers(_find(kind, name, f"{label}: {dotted(place)}", path), kind, place)
            table = without(table, place)
        elif isinstance(written, dict) and "base" in written:
            layers.append(_base_layer(written["base"], kind, place, path))
            table = without(table, (*place, "base"))
    layers += [Layer(_label(path), (), table), Layer(COMMAND_LINE, (), overrides)]
    layers = [*pretrained_layers(layers), *layers]
    tree = merged(layers)
    if isinstance(section := tree.setdefault("run", {}), dict):
        section.setdefault("name", path.stem)
        section.setdefault("dir", f"runs/{section['name']}")
    return _build(Run, tree, (), layers, rules.run_problems)


def load_recipe(name: str) -> RecipeConfig:
    """Returns the recipe of that name, or in that file, with its base laid under it."""
    layers = _file_layers(_find("recipes", name, "recipe", Path()), "recipes", ("recipe",))
    return _build(RecipeConfig, merged(layers)["recipe"], ("recipe",), layers, rules.recipe_problems)


def load_model(name: str) -> ModelConfig:
    """Returns the model of that name, or in that file, with its base laid under it."""
    layers = _file_layers(_find("models", name, "model", Path()), "models", ("model",))
    layers = [*pretrained_layers(layers), *layers]
    return _build(ModelConfig, merged(layers)["model"], ("model",), layers, rules.model_problems)


def known(kind: str) -> dict[str, Path]:
    """Returns the files that can be named without a path; `kind` is "recipes", "models" or "runs"."""
    package = Path(__file__).parents[1]
    # An installed package carries the files; a checkout has them beside it.
    folders = (package / "_configs" / kind, package.parent / "configs" / kind)
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def dump_toml(section: BaseModel) -> str:
    """Returns a run, recipe or model as TOML, every default written out; it loads back to an equal one."""
    return toml.dump(section.model_dump())


def _read(path: Path) -> Table:
    """Parses one file."""
    label = _label(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        siblings = [file.name for file in path.parent.glob("*.toml")]
        hint = f"; {nearest(path.name, siblings)}" if siblings else ""
        raise ConfigError(f"{label}: no such file{hint}") from None
    except OSError as error:
        raise ConfigError(f"{label}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 text at byte {error.start}") from None
    except tomllib.TOMLDecodeError as error:
        text, line = str(error), ""
        if at := re.search(r" \(at line (\d+), column \d+\)", text):
            text, line = text.replace(at[0], ""), f":{at[1]}"
        raise ConfigError(f"{label}{line}: not TOML: {text}") from None


def _find(kind: str, name: str, key: str, beside: Path) -> Path:
    """Returns the file for a name; what ends in `.toml` is a path, seen from the naming file or from here."""
    written = f"{key} = {toml.value(name)}"
    if name.endswith(".toml"):
        file = next((file for file in (beside.parent / name, Path(name)) if file.is_file()), None)
        if file is None:
            raise ConfigError(f"{written}: no such file")
        return file
    files = known(kind)
    if name not in files:
        raise ConfigError(f"{written}: no {kind.removesuffix('s')} of that name; {nearest(name, files)}")
    return files[name]


def _file_layers(file: Path, kind: str, place: Keys) -> list[Layer]:
    """Returns the layers of a model or recipe file: its base, if any, and itself."""
    table = {"name": file.stem} | _read(file)
    base = table.pop("base", None)
    below = [] if base is None else [_base_layer(base, kind, place, file)]
    return [*below, Layer(_label(file), place, table)]


def _base_layer(base: Any, kind: str, place: Keys, beside: Path) -> Layer:
    """Returns the layer of what a file calls its base, which has no base itself."""
    key = f"{_label(beside)}: base"
    if not isinstance(base, str):
        raise ConfigError(f"{key} = {_short(base)}: expected a name or the path of a TOML file")
    file = _find(kind, base, key, beside)
    table = {"name": file.stem} | _read(file)
    if "base" in table:
        raise ConfigError(f"{key} = {toml.value(base)}: has a base itself, and one level is all there is")
    return Layer(_label(file), place, table)


def _overrides(sets: Sequence[str]) -> tuple[dict[Keys, str], Table]:
    """Returns the models and recipes that the `--set`s name, by place, and a table of all else they say."""
    names: dict[Keys, str] = {}
    table: Table = {}
    for item in sets:
        key, equals, text = item.partition("=")
        path = _keys(key)
        if not equals or path is None:
            raise ConfigError(f"{COMMAND_LINE} {item}: expected a dotted key and a value, as in run.steps=10")
        if path[0] in (*SLOTS, "loss"):
            path = ("recipe", *path)
        value = _literal(text)
        if isinstance(value, str) and path in _NAMED:
            names[path] = value
        else:
            table = merge(table, nest(path, value))
    return names, table


def _keys(text: str) -> Keys | None:
    """Parses a dotted key as TOML does; None if it is none."""
    try:
        table = tomllib.loads(f"{text} = 0")
    except tomllib.TOMLDecodeError:
        return None
    path: list[str] = []
    while isinstance(table, dict):
        if len(table) != 1:
            return None
        ((key, table),) = table.items()
        path.append(key)
    return tuple(path)


def _literal(text: str) -> Any:
    """Parses a TOML value; what is none, or is a date, is a plain string."""
    try:
        table = tomllib.loads(f"x = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = table["x"]
    return value if len(table) == 1 and isinstance(value, bool | int | float | str | list | dict) else text


def _build(
    section: type[Section],
    table: Table,
    place: Keys,
    layers: Sequence[Layer],
    problems: Callable[[Section], list[rules.Problem]],
) -> Section:
    """Validates the merged table, key by key and then what no key can say alone."""
    try:
        built = section.model_validate(table)
    except ValidationError as error:
        lines = [_fault(item, table, place, layers) for item in error.errors(include_url=False)]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None
    values = built.model_dump()
    lines = [
        f"{where(layers, (*place, *path))} = {_short(get(values, path))}: {wanted}" for path, wanted in problems(built)
    ]
    if lines:
        raise ConfigError("\n".join(lines))
    return built


def _fault(error: Any, table: Table, place: Keys, layers: Sequence[Layer]) -> str:
    """Returns the line for one error of the validation."""
    # Positions in lists, the mark of a bad name and the kind of a model are not keys.
    local = tuple(key for key in error["loc"] if isinstance(key, str) and key not in ("[key]", *MODEL_TAGS))
    path = (*place, *local)
    key, value = where(layers, path), _short(get(table, local))
    field = explain.field_at(path)
    wanted = explain.expected(field) if field else error["msg"]
    if path in _NAMED:
        wanted = f"a name, the path of a TOML file, or {wanted}"
    match error["type"]:
        case "missing":
            return f"{key}: missing; expected {wanted}"
        case "extra_forbidden":
            return f"{key} = {value}: unknown key; {explain.unknown(path)}"
        case "string_pattern_mismatch":
            return f"{key}: expected a name of letters, digits, - and _"
        case "finite_number":
            return f"{key} = {value}: expected a finite number"
        case _:
            return f"{key} = {value}: expected {wanted}"


def _short(value: Any) -> str:
    text = "nothing" if value is None else toml.value(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _label(path: Path) -> str:
    """Returns a path as the user would write it from here."""
    here = os.path.relpath(path)
    return str(path) if here.startswith("..") else here
