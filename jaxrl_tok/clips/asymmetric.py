"""The same two bounds for every token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def asymmetric(
    mask: Bool[Array, "B T"],
    *,
    low: float = 0.8,
    high: float = 1.2,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Bounds on the ratio, the same for every token.

        low <= rho[b,t] <= high

    The defaults are PPO's, Schulman et al. 2017, https://arxiv.org/abs/1707.06347. DAPO's clip-higher,
    https://arxiv.org/abs/2503.14476, is `high = 1.28`. The numbers bound the ratio itself: an epsilon of 0.2
    is `low = 0.8`. `low = 0` or `high = inf` leaves that side open.

    Raises:
        ConfigError: not low <= 1 <= high.

    Fidelity: code.
    Degenerate: low = 0 and high = inf bound nothing.
    """
    if not low <= 1 <= high:
        raise ConfigError(
            f"asymmetric: low = {low!r} and high = {high!r} bound the ratio and must have 1 between them "
            "(an epsilon of 0.2 is low = 0.8, high = 1.2)"
        )
    return jnp.full(mask.shape, low), jnp.full(mask.shape, high)
