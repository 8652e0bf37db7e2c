"""Where questions come from: built-in tasks, files, TFDS builders, all with random access by index."""

import inspect
import typing
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import pydantic

from jaxrl_tok.errors import ConfigError, nearest
from jaxrl_tok.io.data_files import Files
from jaxrl_tok.io.data_tfds import Tfds
from jaxrl_tok.tasks import TASKS, Example


@runtime_checkable
class Source(Protocol):
    """A data set. Item i is the same whenever it is read."""

    finite: bool  # its items are its questions; otherwise they are draws, which repeat
    fingerprint: str  # changes when its items do

    def __len__(self) -> int:
        """Returns the number of items."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Returns item `index`."""
        ...

    def space(self) -> int | None:
        """Returns how many different questions there are to draw from, or None where that is not known."""
        ...

    def where(self, index: int, /) -> str:
        """Returns how errors name an item."""
        ...


SOURCES: dict[str, Callable[..., Source]] = {**TASKS, "files": Files, "tfds": Tfds}


def open_source(source: str, *, system_prompt: str | None = None, **options: Any) -> Source:
    """Opens a source by name with its own options; see `docs/data.md`.

    With `system_prompt`, prompts that are strings become chats: this system message, if it is not empty, and
    the prompt as the user's message.

    Raises:
        ConfigError: no such source or option, an option of the wrong type, or one that is missing.
        DataError: the data cannot be opened.
    """
    if source not in SOURCES:
        raise ConfigError(f"data.source = {source!r}: no such source; {nearest(source, SOURCES)}")
    opened = SOURCES[source](**_checked(source, options))
    return opened if system_prompt is None else _Chat(opened, system_prompt)


class _Chat:
    """A source whose string prompts are made chats."""

    def __init__(self, source: Source, system_prompt: str):
        self._source, self._system_prompt = source, system_prompt
        self.finite = source.finite
        self.fingerprint = f"{source.fingerprint} system_prompt={system_prompt!r}"
        self.space, self.where = source.space, source.where

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Example:
        example = self._source[index]
        if not isinstance(example.prompt, str):
            return example
        system = [{"role": "system", "content": self._system_prompt}] if self._system_prompt else []
        chat = [*system, {"role": "user", "content": example.prompt}]
        return Example(example.id, chat, example.answer_text, example.columns)


def _checked(source: str, options: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(SOURCES[source]).parameters
    for key in options:
        if key not in parameters:
            hint = nearest(key, [*parameters, "system_prompt"])
            raise ConfigError(f"data.{key}: no such option of data.source = {source!r}; {hint}")
    for key, parameter in parameters.items():
        if parameter.default is parameter.empty and key not in options:
            raise ConfigError(f"data.{key} is missing: data.source = {source!r} needs it")
    hints = typing.get_type_hints(SOURCES[source].__init__)
    for key, value in options.items():
        try:
            pydantic.TypeAdapter(hints[key]).validate_python(value, strict=True)
        except pydantic.ValidationError:
            raise ConfigError(f"data.{key} = {value!r}: expected {_written(hints[key])}") from None
    return options


def _written(kind: Any) -> str:
    """Writes a type as users of TOML know it."""
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(repr(value) for value in arguments)
    if typing.get_origin(kind) is list:
        return f"a list of {_written(arguments[0])}s".replace("a list of a ", "a list of ")
    if typing.get_origin(kind) is dict:
        return "a table of tables" if typing.get_origin(arguments[1]) is dict else "a table"
    if arguments:
        return " or ".join(_written(k) for k in arguments if k is not type(None))
    return {str: "a string", int: "an integer", bool: "true or false", float: "a number"}[kind]
