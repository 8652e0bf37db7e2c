"""What several tests share; the only place that skips."""

import importlib.util

import pytest


def need(module: str) -> None:
    """Skips the calling test, naming what is missing, unless `module` can be imported."""
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"needs {module}")
