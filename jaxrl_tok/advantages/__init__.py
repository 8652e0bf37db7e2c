"""Advantages: the rewards of a group's completions -> the credit of each token."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.advantages.dr_grpo import dr_grpo as dr_grpo
from jaxrl_tok.advantages.grpo import grpo as grpo
from jaxrl_tok.advantages.rloo import rloo as rloo
from jaxrl_tok.advantages.tempo import tempo as tempo

ADVANTAGES: dict[str, Callable[..., Float[Array, "P G T"]]] = {f.__name__: f for f in (grpo, dr_grpo, rloo, tempo)}
