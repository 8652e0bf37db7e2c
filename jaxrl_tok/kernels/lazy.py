"""Modules that are imported when something of them is first used."""

import importlib
from typing import Any


class Lazy:
    """Stands for a module, Pallas say: half a second of import that a program without its kernels need not spend."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Returns what the module has under this name."""
        return getattr(importlib.import_module(self._name), attribute)
