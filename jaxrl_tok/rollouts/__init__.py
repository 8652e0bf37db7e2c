"""Sampling completions from the policy: independent ones, and by the methods that recipes name.

A method is `f(engine, keys [P, G], sampling [P, G], *, hyperparameters) -> Sampled`. Beside it in its module stand
`check(group, max_tokens, *, hyperparameters)`, which refuses at load what cannot work, and `SUPPLIES`, the arrays that
a recipe with it has besides those of completions.
"""

from collections.abc import Callable
from typing import Any

from jaxrl_tok.rollouts import spo_tree

ROLLOUTS: dict[str, Callable[..., Any]] = {"spo_tree": spo_tree.spo_tree}
CHECKS: dict[str, Callable[..., None]] = {"spo_tree": spo_tree.check}
SUPPLIES: dict[str, frozenset[str]] = {"spo_tree": spo_tree.SUPPLIES}
