"""Clips: the bounds between which each token's ratio may move."""

from collections.abc import Callable

from jaxtyping import Array, Float

from jaxrl_tok.clips.asymmetric import asymmetric as asymmetric

CLIPS: dict[str, Callable[..., tuple[Float[Array, "B T"], Float[Array, "B T"]]]] = {
    f.__name__: f for f in (asymmetric,)
}
