"""Turns a recipe's `{method, hyperparameters}` into a function of named arrays.

A method is a plain function. Its positional parameters are arrays, named after docs/notation.md; its
keyword-only parameters are hyperparameters. So the signature says both what the method reads and what a
recipe may set.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxrl_tok.errors import ConfigError, nearest

# Keywords that the calling program sets, never a recipe.
CALLER_KEYWORDS = frozenset({"axis_name"})


class Signature(NamedTuple):
    """What a method's parameters declare."""

    reads: tuple[str, ...]  # arrays it needs
    optional: tuple[str, ...]  # arrays it takes when there are any: the default is None
    hyper: dict[str, inspect.Parameter]


@dataclasses.dataclass(frozen=True, eq=False)  # compared, and so hashed for jit, as an object
class Bound:
    """A method with its hyperparameters set. A call picks what it reads from arrays by name."""

    fn: Callable[..., Any]
    reads: tuple[str, ...]
    optional: tuple[str, ...]
    name: str
    hyper: Mapping[str, Any]

    def __call__(self, fields: Mapping[str, Any]) -> Any:
        """Calls the method on its arrays in `fields`, which may hold others."""
        arrays = {name: fields[name] for name in self.reads}
        arrays |= {name: fields[name] for name in self.optional if name in fields}
        return self.fn(**arrays, **self.hyper)


def bind(methods: Mapping[str, Callable[..., Any]], name: str, /, **hyper: Any) -> Bound:
    """Looks `name` up in `methods` and sets its hyperparameters.

    Raises:
        ConfigError: no method has that name, or it has no such hyperparameter, needs one that is not set, or
            takes another type or choice.
    """
    fn = methods.get(name)
    if fn is None:
        raise ConfigError(f"no method {name!r}; {nearest(name, methods)}")
    reads, optional, known = split_signature(fn)
    for key, value in hyper.items():
        if key not in known:
            hint = nearest(key, known) if known else "it has none"
            raise ConfigError(f"{name} has no hyperparameter {key!r}; {hint}")
        hyper[key] = _checked(name, key, value, known[key].annotation)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in hyper:
            raise ConfigError(f"{name} needs its hyperparameter {key!r}")
    return Bound(fn, reads, optional, name, hyper)


def split_signature(fn: Callable[..., Any]) -> Signature:
    """Reads a method's declaration off its signature."""
    parameters = inspect.signature(fn).parameters.values()
    arrays = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return Signature(
        reads=tuple(p.name for p in arrays if p.default is p.empty),
        optional=tuple(p.name for p in arrays if p.default is None),
        hyper={p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in CALLER_KEYWORDS},
    )


def _checked(name: str, key: str, value: Any, annotation: Any) -> Any:
    """Returns the value as the annotation has it: a whole number is a fine float."""
    accepted = (annotation, *typing.get_args(annotation))
    if float in accepted and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if _fits(value, annotation):
        return value
    choices = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal and isinstance(value, str):
        hint = f"is not one of {', '.join(map(repr, choices))}; {nearest(value, choices)}"
    else:
        hint = f"must be {getattr(annotation, '__name__', annotation)}"
    raise ConfigError(f"{name}: {key} = {value!r} {hint}")


def _fits(value: Any, annotation: Any) -> bool:
    """Says whether a TOML value is of the annotated type. A bool is no number."""
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(annotation))
    if not isinstance(annotation, type) or annotation is inspect.Parameter.empty:
        return True
    return isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
