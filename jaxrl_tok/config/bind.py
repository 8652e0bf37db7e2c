"""Turns a recipe's `{method, hyperparameters}` into a function of named arrays.

A method is a plain function. Its positional parameters are arrays, named after docs/notation.md; its
keyword-only parameters are hyperparameters. So the signature says both what the method reads and what a
recipe may set.

Five functions beside it in its module may go with it, found here by their names:

    init(*, ...) -> State                 the state that the method starts from
    prepare(arrays..., *, ...)            statistics of current values over the whole minibatch, for a step method
    counted(arrays..., *, ...) -> mask    the tokens that a loss is averaged over, where these are not all
    returns(arrays..., *, ...)            what a critic is to predict, for an advantage made of its values
    next_round(done, rewards, valid, *, ...) -> Round    what a method of rollouts samples next

A hyperparameter may belong to several of the six; a recipe sets it once.
"""

import dataclasses
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from jaxrl_tok.errors import ConfigError, nearest

# Keywords that the calling program sets, never a recipe.
CALLER_KEYWORDS = frozenset({"axis_name", "num_prompts"})
# Parameters that a method's own companions fill, never the trainer's arrays.
OWN = frozenset({"prepared", "state"})
COMPANIONS = ("init", "prepare", "counted", "returns", "next_round")


class Signature(NamedTuple):
    """What the parameters of a method, and of the functions that go with it, declare."""

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
    hyper: Mapping[str, Any]  # as a recipe set them, those of the functions beside it too
    own: Mapping[str, Any]  # those of them that `fn` takes
    init: Callable[..., Any] | None = None
    prepare: "Bound | None" = None
    counted: "Bound | None" = None
    returns: "Bound | None" = None
    next_round: Callable[..., Any] | None = None

    def __call__(self, fields: Mapping[str, Any]) -> Any:
        """Calls the method on its arrays in `fields`, which may hold others."""
        arrays = {name: fields[name] for name in self.reads}
        arrays |= {name: fields[name] for name in self.optional if name in fields}
        return self.fn(**arrays, **self.own)

    @property
    def needs(self) -> frozenset[str]:
        """Arrays without which it, or a function that goes with it, cannot be called; its own state is none of them."""
        return frozenset(name for bound in self._all for name in bound.reads) - OWN

    @property
    def takes(self) -> frozenset[str]:
        """Arrays that it reads when there are any, and those that it needs."""
        return self.needs | {name for bound in self._all for name in bound.optional}

    @property
    def _all(self) -> tuple["Bound", ...]:
        return (self, *(bound for bound in (self.prepare, self.counted, self.returns) if bound is not None))


def bind(methods: Mapping[str, Callable[..., Any]], name: str, /, **hyper: Any) -> Bound:
    """Looks `name` up in `methods` and sets its hyperparameters.

    Raises:
        ConfigError: no method has that name, or it has no such hyperparameter, needs one that is not set, or
            takes another type or choice.
    """
    fn = methods.get(name)
    if fn is None:
        raise ConfigError(f"no method {name!r}; {nearest(name, methods)}")
    known = split_signature(fn).hyper
    for key, value in hyper.items():
        if key not in known:
            hint = nearest(key, known) if known else "it has none"
            raise ConfigError(f"{name} has no hyperparameter {key!r}; {hint}")
        hyper[key] = _checked(name, key, value, known[key].annotation)
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in hyper:
            raise ConfigError(f"{name} needs its hyperparameter {key!r}")
    beside = companions(fn)
    bound = {key: _bound(beside[key], key, hyper) for key in ("prepare", "counted", "returns") if key in beside}
    plain = {key: beside[key] for key in ("init", "next_round") if key in beside}
    plain = {key: functools.partial(function, **_own(function, hyper)) for key, function in plain.items()}
    return dataclasses.replace(_bound(fn, name, hyper), **bound, **plain)


def companions(fn: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """Returns the functions that go with a method, by their names in its module."""
    module = sys.modules[fn.__module__]
    return {key: getattr(module, key) for key in COMPANIONS if hasattr(module, key)}


def split_signature(fn: Callable[..., Any]) -> Signature:
    """Reads a method's declaration off its signature, and off those of the functions that go with it."""
    functions = (fn, *companions(fn).values())
    reads = dict.fromkeys(name for f in functions for name in _arrays(f)[0] if name not in OWN)
    optional = dict.fromkeys(name for f in functions for name in _arrays(f)[1] if name not in reads)
    hyper: dict[str, inspect.Parameter] = {}
    for p in (p for f in functions for p in inspect.signature(f).parameters.values()):
        if p.kind is p.KEYWORD_ONLY and p.name not in CALLER_KEYWORDS:
            hyper.setdefault(p.name, p)
    return Signature(tuple(reads), tuple(optional), hyper)


def _own(fn: Callable[..., Any], hyper: Mapping[str, Any]) -> dict[str, Any]:
    """Picks what this one of a method's functions takes."""
    parameters = inspect.signature(fn).parameters
    return {key: value for key, value in hyper.items() if key in parameters}


def _bound(fn: Callable[..., Any], name: str, hyper: Mapping[str, Any]) -> Bound:
    reads, optional = _arrays(fn)
    return Bound(fn, reads, optional, name, hyper, _own(fn, hyper))


def _arrays(fn: Callable[..., Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the arrays that one function needs, and those that it can do without."""
    arrays = [p for p in inspect.signature(fn).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return tuple(p.name for p in arrays if p.default is p.empty), tuple(p.name for p in arrays if p.default is None)


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
    if origin in (list, tuple):
        return isinstance(value, list) and all(_fits(item, typing.get_args(annotation)[0]) for item in value)
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, part) for part in typing.get_args(annotation))
    if not isinstance(annotation, type) or annotation is inspect.Parameter.empty:
        return True
    return isinstance(value, annotation) and (annotation is bool or not isinstance(value, bool))
