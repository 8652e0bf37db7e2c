"""Losses: what is minimised, one number a token, before it is averaged."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.losses.kl import kl as kl
from jaxrl_tok.losses.ppo_clip import ppo_clip as ppo_clip
from jaxrl_tok.losses.sft import sft as sft

LOSSES: dict[str, Callable[..., Float[Array, "B T"]]] = {f.__name__: f for f in (ppo_clip, kl, sft)}
