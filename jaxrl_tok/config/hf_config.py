"""A Hugging Face `config.json`: its values, what they count as where it is silent, and errors that name it."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from jaxrl_tok.errors import ConfigError


class HfConfig:
    """What a file says, over the defaults of its family.

    Args:
      table: the file.
      label: how errors name it.
      defaults: what a key counts as that the file leaves out, or has as null.
    """

    def __init__(self, table: Mapping[str, Any], label: str, defaults: Mapping[str, Any]):
        self.table, self.label, self._defaults = table, label, defaults

    def get(self, key: str) -> Any:
        """Returns a key's value."""
        found = self.table.get(key)
        return self._defaults.get(key) if found is None else found

    def size(self, key: str, default: Any = None) -> int:
        """Returns a size; `default` where neither the file nor its family has one.

        Raises:
          ConfigError: it is no positive integer.
        """
        found = self.get(key)
        found = default if found is None else found
        if not isinstance(found, int) or isinstance(found, bool) or found < 1:
            self.refuse(key, found, "expected an integer of at least 1")
        return found

    def number(self, key: str) -> float | None:
        """Returns a number, None where nothing is said.

        Raises:
          ConfigError: it is something else.
        """
        found = self.get(key)
        if found is not None and (not isinstance(found, int | float) or isinstance(found, bool)):
            self.refuse(key, found, "expected a number")
        return None if found is None else float(found)

    def refuse(self, key: str, value: Any, why: str) -> NoReturn:
        """Raises the one line that names file, key and value."""
        raise ConfigError(f"{self.label}: {key} = {json.dumps(value)}: {why}")
