"""Bounds that are wider for certain tokens below and for uncertain ones above."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import normalized_entropy


def hapo(
    prepared: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    low: float = 0.8,
    high: float = 1.2,
    alpha: float = 1.0,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Bounds on the ratio that widen below for certain tokens and above for uncertain ones.

        low[b,t] = 1 - (1 - low) * (1 - alpha min(h[b,t], 0))
        high[b,t] = 1 + (high - 1) * (1 + alpha max(h[b,t], 0))

    HAPO, https://arxiv.org/abs/2509.16591. h in [-1, 1] is `normalized_entropy` of the current policy over the
    whole minibatch, from `prepare`; at alpha = 1 an epsilon at most doubles. A certain token (h < 0) may lose more
    of its probability, an uncertain one gain more. `as_released` gives the sign of the released code, where only
    the upper bound widens, for the most certain tokens as for the most uncertain ones.

    Raises:
        ConfigError: not low <= 1 <= high, or `alpha` not in [0, 1].

    Fidelity: code.
    Degenerate: alpha = 0 or a constant entropy is `asymmetric`.
    """
    if not low <= 1 <= high or not 0 <= alpha <= 1:
        raise ConfigError(
            f"hapo: low = {low!r} and high = {high!r} bound the ratio and must have 1 between them, "
            f"and alpha = {alpha!r} must lie in [0, 1]"
        )
    h = jnp.where(mask, prepared, 0)
    return 1 - (1 - low) * (1 - alpha * jnp.minimum(h, 0)), 1 + (high - 1) * (1 + alpha * jnp.maximum(h, 0))


# Over the whole minibatch, under the current policy.
prepare = normalized_entropy
