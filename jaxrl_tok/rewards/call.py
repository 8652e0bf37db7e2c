"""Finds a reward function, says which columns it takes, calls it, and checks what came back.

Runs in the workers, where the user's code is; nothing here needs numpy or jax.
"""

import dataclasses
import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from numbers import Number
from pathlib import Path
from typing import Any

from jaxrl_tok.errors import RewardError, nearest
from jaxrl_tok.rewards import REWARDS

FLOAT32_MAX = 3.4028234663852886e38
LONGEST = 300  # characters of a user's exception message that fit in a line
GIVEN = ("prompts", "completions")


@dataclasses.dataclass(frozen=True)
class Call:
    """A reward function bound to its options, and the arguments that it takes."""

    label: str  # reward 'correct' (my_rewards:score)
    function: Callable
    options: Mapping[str, Any]  # keyword-only parameters
    constants: Mapping[str, Any]  # columns that the run file gives, one value for every sample
    arguments: tuple[str, ...]  # what it takes of prompts, completions and the columns
    required: tuple[str, ...]  # columns without a default
    takes_all: bool  # has a **parameter


def label(name: str, function: str) -> str:
    """Returns how errors name a reward."""
    return f"reward {name!r} ({function})"


def load(name: str, function: str, options: Mapping[str, Any]) -> Call:
    """Finds a built-in reward or imports `module:function`, and binds its options.

    Keyword-only parameters are hyperparameters and come from the options. The others are columns of the
    data, unless the options give one value for all samples.

    Raises:
        RewardError: the name, the function's signature or an option cannot be.
    """
    check_name(name, function)
    where = label(name, function)
    found = REWARDS[function] if function in REWARDS else imported(where, *function.split(":"))
    return bind(where, found, options)


def warm_up(function: str) -> None:
    """Calls `module:function`, which takes nothing, for what it imports or loads.

    Raises:
        RewardError: it cannot be found, or it raised.
    """
    where = f"warm-up {function}"
    module, _, attribute = function.partition(":")
    call = imported(where, module, attribute)
    try:
        call()
    except BaseException as error:  # as of a reward function
        raise RewardError(f"{where}: {describe(error, call)}") from None


def check_name(name: str, function: str) -> None:
    """Raises RewardError unless `function` is a built-in reward or reads `module:function`."""
    module, colon, attribute = function.partition(":")
    if function not in REWARDS and not (colon and module and attribute.isidentifier()):
        hint = nearest(function, REWARDS)
        raise RewardError(f"{label(name, function)}: neither a built-in reward nor module:function; {hint}")


def bind(where: str, function: Any, options: Mapping[str, Any]) -> Call:
    """Reads the signature and checks the options against it; see `load`."""
    if not callable(function):
        raise RewardError(f"{where}: is {type(function).__name__}, not a function")
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        raise RewardError(f"{where}: has no signature; wrap it in a Python function") from None
    kinds = {p.name: p.kind for p in parameters}
    for p in parameters:
        if p.kind is p.POSITIONAL_ONLY:
            raise RewardError(f"{where}: {p.name!r} is positional-only, but arguments are passed by name")
    takes_all = inspect.Parameter.VAR_KEYWORD in kinds.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if "completions" not in kinds and not takes_all:
        raise RewardError(f"{where}: takes no 'completions'; write f(prompts, completions, **columns)")
    settable = [p.name for p in named if p.name not in GIVEN]
    for key in options:
        if key not in settable:
            hint = nearest(key, settable) if settable else "it has none"
            raise RewardError(f"{where}: has no option {key!r}; {hint}")
    hyper = [p for p in named if p.kind is p.KEYWORD_ONLY and p.name not in GIVEN]
    for p in hyper:
        if p.default is p.empty and p.name not in options:
            raise RewardError(
                f"{where}: option {p.name!r} is not set; set it beside `function`, or, if it is a column of "
                "the data, move it before the * in the signature"
            )
    columns = [p for p in named if p not in hyper and p.name not in options]
    return Call(
        label=where,
        function=function,
        options={p.name: options[p.name] for p in hyper if p.name in options},
        constants={k: v for k, v in options.items() if kinds[k] is inspect.Parameter.POSITIONAL_OR_KEYWORD},
        arguments=tuple(p.name for p in columns),
        required=tuple(p.name for p in columns if p.default is p.empty and p.name not in GIVEN),
        takes_all=takes_all,
    )


def invoke(call: Call, prompts: list, completions: list, columns: Mapping[str, list]) -> Any:
    """Calls the function; an async one gives its coroutine."""
    arguments = {"prompts": prompts, "completions": completions, **columns}
    if not call.takes_all:
        arguments = {k: v for k, v in arguments.items() if k in call.arguments}
    constants = {k: [v] * len(completions) for k, v in call.constants.items()}
    return call.function(**{**arguments, **constants, **call.options})


def checked(values: Any, count: int) -> tuple[list[float | None], dict[int, str]]:
    """Returns the scores as floats, and for each value that is no score what is wrong with it.

    Raises:
        ValueError: there is not one value for each completion.
    """
    sized = hasattr(values, "__len__") and hasattr(values, "__getitem__") and getattr(values, "ndim", 1)
    if isinstance(values, str | bytes | Mapping) or not sized:
        raise ValueError(f"returned {_shown(values)}, expected a list of {count}")
    if len(values) != count:
        raise ValueError(f"returned {len(values)} values for {count} completions")
    scores: list[float | None] = []
    wrong: dict[int, str] = {}
    for i, value in enumerate(values):
        score = None if value is None else _score(value)
        if score is None and value is not None:
            wrong[i] = f"returned {_shown(value)}, expected a finite number, a bool or None"
        scores.append(score)
    return scores, wrong


def describe(error: BaseException, function: Any = None) -> str:
    """Returns an exception of the user's code as one line: type, message, file and line."""
    try:
        text = str(error)
    except Exception as second:
        text = f"its message raised {type(second).__name__}"
    message = f"{type(error).__name__}: {' '.join(text.split())}"[:LONGEST].removesuffix(": ")
    place = _place(error, function)
    return f"{message} ({place})" if place else message


def _score(value: Any) -> float | None:
    # float() also reads strings and one-element arrays, which are mistakes here.
    if isinstance(value, str | bytes) or getattr(value, "ndim", 0):
        return None
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return score if math.isfinite(score) and abs(score) <= FLOAT32_MAX else None


def _shown(value: Any) -> str:
    if value is None or isinstance(value, Number | str | bytes) or getattr(value, "ndim", None) == 0:
        return repr(value)[:80]
    return f"a {type(value).__name__}"


def _place(error: BaseException, function: Any) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename)}:{error.lineno}"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen importlib")
    ]
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    own = [frame for frame in frames if code and frame.filename == code.co_filename]
    frame = (own or frames or [None])[-1]
    return f"{_short(frame.filename)}:{frame.lineno}" if frame else ""


def _short(filename: str) -> str:
    inside = Path(filename).is_relative_to(Path.cwd())
    return os.path.relpath(filename) if inside else filename


def imported(where: str, module: str, attribute: str) -> Any:
    """Returns what a module of the user's has under a name; `where` begins the line of an error.

    Raises:
        RewardError: it cannot be imported, or has nothing of that name.
    """
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise RewardError(f"{where}: cannot import {module}: {describe(error)}") from None
        hint = nearest(module, _neighbours()) if _neighbours() else "no Python file is there"
        line = f"{where}: no module {error.name!r} beside the run file or installed; {hint}"
        raise RewardError(line) from None
    except BaseException as error:  # the user's module may raise anything, SystemExit too
        raise RewardError(f"{where}: cannot import {module}: {describe(error)}") from None
    if not hasattr(found, attribute):
        functions = [k for k, v in vars(found).items() if callable(v) and not k.startswith("_")]
        hint = nearest(attribute, functions) if functions else "it has no functions"
        raise RewardError(f"{where}: {_file(found)} has no {attribute!r}; {hint}")
    return getattr(found, attribute)


def _file(module: Any) -> str:
    return _short(module.__file__) if getattr(module, "__file__", None) else module.__name__


def _neighbours() -> set[str]:
    """Modules in the folders that a user's own file would be in: the first two of the path."""
    return {p.stem for folder in sys.path[:2] if Path(folder).is_dir() for p in Path(folder).glob("*.py")}
