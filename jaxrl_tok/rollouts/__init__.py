"""Sampling completions from the policy: independent ones, and by the methods that recipes name.

A method is `f(engine, keys [P, G], sampling [P, G], *, hyperparameters) -> Sampled`. Beside it in its module stand
`check(group, max_tokens, contains, *, hyperparameters)`, which refuses at load what cannot work, and `SUPPLIES`, the
arrays that a recipe with it has besides those of completions. One that samples in rounds has `next_round` too
(`rounds.py`).
"""

from collections.abc import Callable
from typing import Any

from jaxrl_tok.rollouts import brpo, cure, dars, dynamic, eptree, latr, remax, spo_chain, spo_tree, vine_ppo

ROLLOUTS: dict[str, Callable[..., Any]] = {
    "brpo": brpo.brpo,
    "cure": cure.cure,
    "dars": dars.dars,
    "dynamic": dynamic.dynamic,
    "eptree": eptree.eptree,
    "latr": latr.latr,
    "remax": remax.remax,
    "spo_chain": spo_chain.spo_chain,
    "spo_tree": spo_tree.spo_tree,
    "vine_ppo": vine_ppo.vine_ppo,
}
# Those that decode by a loop of their own, which reads no stop strings.
WITHOUT_STOPS = frozenset({"latr"})
# Hyperparameters that are text in a recipe and token ids in a call.
TEXTS: dict[str, tuple[str, ...]] = {"brpo": ("close",)}
CHECKS: dict[str, Callable[..., None]] = {
    "brpo": brpo.check,
    "cure": cure.check,
    "dars": dars.check,
    "dynamic": dynamic.check,
    "eptree": eptree.check,
    "latr": latr.check,
    "remax": remax.check,
    "spo_chain": spo_chain.check,
    "spo_tree": spo_tree.check,
    "vine_ppo": vine_ppo.check,
}
# Of methods that fix what completions share before they sample: the node of each token, [G, T], of the most tokens.
NODES: dict[str, Callable[..., Any]] = {"spo_tree": spo_tree.nodes}
SUPPLIES: dict[str, frozenset[str]] = {
    "brpo": brpo.SUPPLIES,
    "cure": cure.SUPPLIES,
    "dars": dars.SUPPLIES,
    "dynamic": dynamic.SUPPLIES,
    "eptree": eptree.SUPPLIES,
    "latr": latr.SUPPLIES,
    "remax": remax.SUPPLIES,
    "spo_chain": spo_chain.SUPPLIES,
    "spo_tree": spo_tree.SUPPLIES,
    "vine_ppo": vine_ppo.SUPPLIES,
}
