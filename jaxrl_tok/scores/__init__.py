"""What follows from rewards, tokens and the model's statistics, shared by the slots."""

from collections.abc import Callable
from typing import Any

from jaxrl_tok.scores.centred_rewards import centred_rewards as centred_rewards
from jaxrl_tok.scores.kl_estimate import kl_estimate as kl_estimate
from jaxrl_tok.scores.prefix_tree_values import prefix_tree_values as prefix_tree_values

SCORES: dict[str, Callable[..., Any]] = {f.__name__: f for f in (centred_rewards, kl_estimate, prefix_tree_values)}
