"""Token weights: how much the credit of each token counts."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.token_weights.high_entropy import high_entropy as high_entropy
from jaxrl_tok.token_weights.uniform import uniform as uniform

TOKEN_WEIGHTS: dict[str, Callable[..., Float[Array, "P G T"]]] = {f.__name__: f for f in (uniform, high_entropy)}
