"""Rewards by name: `f(prompts, completions, **columns) -> list[float | bool | None]`, where None abstains.

`jaxrl_tok.rewards.pool` calls them in worker processes. Nothing that this package imports imports jax,
because every worker imports it.
"""

from jaxrl_tok.rewards.exact_match import exact_match as exact_match
from jaxrl_tok.rewards.format import format as format
from jaxrl_tok.rewards.verifier import verifier as verifier

REWARDS = {f.__name__: f for f in (exact_match, format, verifier)}
