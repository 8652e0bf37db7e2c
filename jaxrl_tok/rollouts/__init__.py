"""Sampling completions from the policy: independent ones, and by the methods that recipes name.

A method is `f(engine, keys [P, G], sampling [P, G], *, hyperparameters) -> Sampled`, in the module of its name. Beside
it may stand there: `check(group, max_tokens, contains, *, hyperparameters)`, which refuses at load what cannot work and
names the hyperparameters that it looks at; `longest(*, hyperparameters)`, the most tokens of a completion where these
are fewer than `rollout.max_tokens`; `nodes`, below; `SUPPLIES`, the arrays that a recipe with it has besides those of
completions; `TEXTS`, the hyperparameters that are text in a recipe and token ids in a call; and, of one that samples in
rounds, `next_round` (`rounds.py`).
"""

import inspect
from collections.abc import Callable
from types import ModuleType
from typing import Any

from jaxrl_tok.rollouts import brpo, cure, dars, dynamic, eptree, latr, remax, spo_chain, spo_tree, vine_ppo
from jaxrl_tok.rollouts.extend import Contains

_MODULES: dict[str, ModuleType] = {
    module.__name__.rpartition(".")[2]: module
    for module in (brpo, cure, dars, dynamic, eptree, latr, remax, spo_chain, spo_tree, vine_ppo)
}
ROLLOUTS: dict[str, Callable[..., Any]] = {name: getattr(module, name) for name, module in _MODULES.items()}
# Of methods that fix what completions share before they sample: the node of each token, [G, T], of the most tokens.
NODES: dict[str, Callable[..., Any]] = {
    name: module.nodes for name, module in _MODULES.items() if hasattr(module, "nodes")
}
SUPPLIES: dict[str, frozenset[str]] = {
    name: getattr(module, "SUPPLIES", frozenset()) for name, module in _MODULES.items()
}
TEXTS: dict[str, tuple[str, ...]] = {name: getattr(module, "TEXTS", ()) for name, module in _MODULES.items()}
# Keys of [rollout] that a method does not know: one puts in text that is not the policy's, one has its own loop.
REFUSED = {"brpo": ("stop",), "latr": ("stop", "bad_tokens", "min_tokens")}
# Methods that sample independent completions and nothing from them: all run in slots, and no cache is kept.
IN_SLOTS = frozenset({"dars", "dynamic", "remax"})


def check(name: str, group: int, max_tokens: int, contains: Contains, **hyper: Any) -> None:
    """Refuses a method that does not fit into a run, with these hyperparameters and its own defaults for the others.

    Raises:
      ConfigError: what does not fit.
    """
    module = _MODULES[name]
    if hasattr(module, "check"):
        module.check(group, max_tokens, contains, **_known(name, module.check, hyper))


def longest(name: str, max_tokens: int, **hyper: Any) -> int:
    """Returns the most tokens of a completion of a method with these hyperparameters."""
    module = _MODULES[name]
    return module.longest(**_known(name, module.longest, hyper)) if hasattr(module, "longest") else max_tokens


def _known(name: str, function: Callable[..., Any], hyper: dict[str, Any]) -> dict[str, Any]:
    """Returns the hyperparameters that a function beside a method looks at, as given or by the method's defaults."""
    module = _MODULES[name]
    functions = [one for key in (name, "next_round") if (one := getattr(module, key, None)) is not None]
    known = {key: default for one in functions for key, default in _keywords(one).items()} | hyper
    return {key: known[key] for key in _keywords(function)}


def _keywords(function: Callable[..., Any]) -> dict[str, Any]:
    """Returns a function's keyword-only parameters and their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
