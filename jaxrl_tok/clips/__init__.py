"""Clips: the bounds between which each token's ratio may move."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.clips.archer import archer as archer
from jaxrl_tok.clips.asymmetric import asymmetric as asymmetric
from jaxrl_tok.clips.dcpo import dcpo as dcpo
from jaxrl_tok.clips.entropy_scaled import entropy_scaled as entropy_scaled
from jaxrl_tok.clips.hapo import hapo as hapo

CLIPS: dict[str, Callable[..., tuple[Float[Array, "B T"], Float[Array, "B T"]]]] = {
    f.__name__: f
    for f in (
        asymmetric,
        hapo,
        archer,
        dcpo,
        entropy_scaled,
    )
}
