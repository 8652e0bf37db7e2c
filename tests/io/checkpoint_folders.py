"""Folders of checkpoints for the tests: each step holds its own number."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxrl_tok.io.checkpoint import Checkpoints, Restored


def small(value: float) -> dict:
    return {"w": jnp.full((3,), value, jnp.float32)}


def restore(checkpoints: Checkpoints, template: Any, **options) -> Restored:
    restored = checkpoints.restore(template, **options)
    assert restored is not None
    return restored


def fill(folder: Path, *steps: int, **options) -> list[str]:
    """Saves `steps` one after another, each holding its own number, and returns the warnings."""
    lines = []
    with Checkpoints(folder, warn=lines.append, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, small(step), {"position": 10 * step})
    return lines


def newest(folder: Path) -> tuple[int | None, list[str]]:
    lines = []
    with Checkpoints(folder, warn=lines.append, read_only=True) as checkpoints:
        restored = checkpoints.restore(small(0))
    if restored is None:
        return None, lines
    assert restored.host == {"position": 10 * restored.step}
    np.testing.assert_array_equal(restored.state["w"], np.full(3, restored.step, np.float32))
    return restored.step, lines


def payload(folder: Path) -> Path:
    """Returns the file that holds the most of a step's arrays."""
    return max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
