"""What several tests share; the only place that skips."""

import importlib.util

import pytest


def need(module: str) -> None:
    """Skips the test, or the test module, that calls this unless `module` can be imported; says what is missing."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}", allow_module_level=True)
