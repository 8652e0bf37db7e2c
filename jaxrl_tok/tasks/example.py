"""One question of a data set, as every source gives it."""

import dataclasses
from typing import Any, TypeAlias

# A text, or the messages of a chat: dictionaries with the keys "role" and "content".
Prompt: TypeAlias = str | list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Example:
    """A question, its worked answer where there is one, and what rewards read of it."""

    id: int  # index in its source, fits in int32
    prompt: Prompt
    answer_text: str | None  # a completion to learn from, not the bare answer
    columns: dict[str, Any]  # JSON values, handed to rewards by name
