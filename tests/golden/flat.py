"""What the adapters share: golden values to arrays, flat rows to `[P, G]` and back."""

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The golden cases' words for a group of one -> the option's.
SINGLETON = {"verl": "raw", "raw": "raw", "zero": "zero"}

# A fraction that keeps one, where the cases have 0 and "at least one", and the methods refuse 0.
LEAST = 1e-12


def parse(value: Any) -> Any:
    """Turns lists of numbers into float64 arrays; words, single numbers and null stay."""
    if isinstance(value, str):
        return float(value) if value in ("inf", "-inf") else value
    if not isinstance(value, list):
        return value
    try:
        return np.asarray(value, np.float64)  # null becomes NaN, "inf" a number
    except (TypeError, ValueError):
        return np.asarray(value)  # words, such as group ids


def call(method: Callable[..., Any], *arrays: Any, **hyper: Any) -> Any:
    """Calls a method compiled as a whole, which is quicker than one operation after the other.

    Whole numbers become floats where the method wants floats, as in a recipe.
    """
    parameters = inspect.signature(method).parameters
    for name, value in hyper.items():
        annotation = parameters[name].annotation if name in parameters else None
        if float in (annotation, *typing.get_args(annotation)) and type(value) is int:
            hyper[name] = float(value)
    return jax.jit(functools.partial(method, **hyper))(*arrays)


class Groups:
    """Flat rows to `[P, G]` and back; short groups are padded."""

    def __init__(self, group: np.ndarray) -> None:
        _, self.p = np.unique(group, return_inverse=True)
        self.g = np.array([np.sum(self.p[:b] == p) for b, p in enumerate(self.p)], int)
        self.shape = (self.p.max() + 1, self.g.max() + 1)

    def pack(self, rows: np.ndarray, dtype: Any = np.float64) -> jax.Array:
        packed = np.zeros(self.shape + rows.shape[1:], dtype)
        packed[self.p, self.g] = rows
        return jnp.asarray(packed)

    def rewards(self, reward: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """Rewards, and which completions exist and have one."""
        missing = np.isnan(reward)
        return self.pack(np.where(missing, 0, reward)), self.pack(~missing, bool)

    def flat(self, x: jax.Array) -> np.ndarray:
        return np.asarray(x)[self.p, self.g]
