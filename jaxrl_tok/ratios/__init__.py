"""Ratios: the current policy over the old one, per token, segment or sequence."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.ratios.hybrid import hybrid as hybrid
from jaxrl_tok.ratios.segment import segment as segment
from jaxrl_tok.ratios.sequence import sequence as sequence
from jaxrl_tok.ratios.token import token as token

RATIOS: dict[str, Callable[..., Float[Array, "B T"]]] = {f.__name__: f for f in (token, hybrid, segment, sequence)}
