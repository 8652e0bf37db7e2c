"""One row of a user's data, checked and turned into an example."""

import dataclasses
from typing import Any

from jaxrl_tok.errors import DataError, nearest
from jaxrl_tok.tasks.example import Example, Prompt

# Arguments that every reward gets; a column of the same name could not reach it.
TAKEN = ("prompts", "completions")


@dataclasses.dataclass(frozen=True)
class Columns:
    """What the columns of a data set are for."""

    prompt: str  # prompt_column
    answer: str | None  # answer_column, the worked answer
    others: list[str] | None  # the columns for rewards, None = all but the prompt

    def keep(self, name: str) -> bool:
        """Whether a column of this name is read at all."""
        return self.others is None or name in (self.prompt, self.answer, *self.others)

    def example(self, row: dict[str, Any], index: int, where: str) -> Example:
        """Returns the example of a row of kept columns; all of them but the prompt go to rewards.

        Raises:
            DataError: a column is missing, or the prompt or the worked answer is of the wrong type.
        """
        for name in self.others or ():
            _column(row, name, "columns", where)
        for name in TAKEN:
            if name in row and name != self.prompt:
                raise DataError(f"{where}: a column is named {name!r}, which rewards already get; rename it")
        return Example(
            id=index,
            prompt=_prompt(_column(row, self.prompt, "prompt_column", where), f"{where}: {self.prompt!r}"),
            answer_text=None if self.answer is None else _answer(row, self.answer, where),
            columns={key: value for key, value in row.items() if key != self.prompt},
        )


def _column(row: dict[str, Any], name: str, option: str, where: str) -> Any:
    if name not in row:
        hint = nearest(name, row) if row else "it has no columns"
        raise DataError(f"{where}: no column {name!r} (data.{option}); {hint}")
    return row[name]


def _answer(row: dict[str, Any], name: str, where: str) -> str | None:
    answer = _column(row, name, "answer_column", where)
    if answer is not None and not isinstance(answer, str):
        raise DataError(f"{where}: {name!r} is {_kind(answer)}, expected a worked answer's text, or null")
    return answer


def _prompt(value: Any, where: str) -> Prompt:
    if isinstance(value, str):
        if not value.strip():
            raise DataError(f"{where} is empty")
        return value
    if not isinstance(value, list):
        raise DataError(f"{where} is {_kind(value)}, expected a string or a list of chat messages")
    if not value:
        raise DataError(f"{where} is a list without messages")
    for i, message in enumerate(value):
        if not isinstance(message, dict):
            raise DataError(f"{where}[{i}] is {_kind(message)}, expected a message with 'role' and 'content'")
        for key in ("role", "content"):
            if not isinstance(message.get(key), str):
                found = _kind(message[key]) if key in message else "missing"
                raise DataError(f"{where}[{i}]: {key!r} is {found}, expected a string")
    return value


def _kind(value: Any) -> str:
    """Names a value by its JSON type."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"the number {value!r}"
    names = {str: "a string", bool: "a boolean", dict: "an object", list: "a list", type(None): "null"}
    return names[type(value)]
