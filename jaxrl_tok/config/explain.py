"""What the schema expects at a dotted path, in words: for error lines and for the reference in the docs."""

import types
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jaxrl_tok.config.schema import Method, Run
from jaxrl_tok.errors import nearest

_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_BOUNDS = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}


def expected(field: FieldInfo) -> str:
    """Returns what a field takes, in words: `an integer of at least 1`."""
    return _words(field.annotation, field.metadata)


def inner(annotation: Any) -> Any:
    """Returns an annotation without `| None` and `Annotated`."""
    while get_origin(annotation) in (Annotated, Union, types.UnionType):
        annotation = get_args(annotation)[0]
    return annotation


def is_section(annotation: Any) -> bool:
    """Whether an annotation is a section: a table with keys of its own."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def field_at(path: Sequence[str]) -> FieldInfo | None:
    """Returns the field at a path of a run; None where the schema has none."""
    field, annotation = None, Run
    for key in path:
        if get_origin(annotation) is dict:  # the key is a name
            field = FieldInfo.from_annotation(get_args(annotation)[1])
        else:
            field = annotation.model_fields.get(key) if is_section(annotation) else None
        if field is None:
            return None
        annotation = inner(field.annotation)
    return field


def unknown(path: Sequence[str]) -> str:
    """Returns the hint for an unknown key: its nearest neighbour, or the sections that have that key."""
    parent = field_at(path[:-1])
    neighbours = (inner(parent.annotation) if parent else Run).model_fields
    hint = nearest(path[-1], neighbours)
    elsewhere = [f"{name}.{path[-1]}" for name, keys in _sections().items() if path[-1] in keys]
    if elsewhere and not hint.startswith("did you mean"):
        return f"did you mean {' or '.join(map(repr, elsewhere))}?"
    return hint


def _sections() -> dict[str, set[str]]:
    """Returns the keys of each section of a run."""
    sections = {name: inner(field.annotation) for name, field in Run.model_fields.items()}
    return {name: set(section.model_fields) for name, section in sections.items() if is_section(section)}


def _words(annotation: Any, metadata: Sequence[Any]) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        found = [a.metadata if isinstance(a, FieldInfo) else [a] for a in args[1:]]
        return _words(args[0], [m for part in found for m in part])
    if origin in (Union, types.UnionType):
        return _words(args[0], metadata)
    if origin is Literal:
        *most, last = (f'"{value}"' for value in args)
        return f"{', '.join(most)} or {last}" if most else last
    filled = any(hasattr(m, "min_length") for m in metadata)
    if origin is tuple:
        return f"a list of {_words(args[0], ())}"
    if origin is dict:
        return "at least one named table" if filled else "named tables"
    if is_section(annotation):
        return "a name or a table" if annotation is Method else "a table"
    if filled:
        return f"{_WORDS[annotation]} that is not empty"
    found = [(m, name) for m in metadata for name in _BOUNDS if hasattr(m, name)]
    bounds = [_BOUNDS[name].format(getattr(m, name)) for m, name in found]
    return " ".join([_WORDS[annotation], " and ".join(bounds)]).strip()
