"""Narrow bounds where the policy was sure of itself, wide ones where it was not."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import low_entropy


def archer(
    old_entropy: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    quantile: float = 0.8,
    narrow_low: float = 0.8,
    narrow_high: float = 1.2,
    wide_low: float = 0.5,
    wide_high: float = 1.5,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Two pairs of bounds on the ratio: by whether the token's entropy is above a quantile of its completion.

        (narrow_low, narrow_high) where H[b,t] <= Q_b, (wide_low, wide_high) above
        Q_b = linear quantile of H[b] over the trained tokens

    Archer, https://arxiv.org/abs/2507.15778, with the numbers of its code, which adds a dual clip of 10 and, on the
    low tokens, `archer_kl`. The code takes the entropy of the current policy at each update; this is the old
    policy's, the same at the first update, known before the step. A completion's only token is low, and so are all
    tokens of a constant entropy.

    Raises:
        ConfigError: `quantile` is not in [0, 1], or a pair of bounds does not have 1 between them.

    Fidelity: code. At a batch's first update; later ones keep the old policy's entropies.
    Degenerate: quantile = 1 is `asymmetric` with the narrow bounds.
    """
    for low, high in ((narrow_low, narrow_high), (wide_low, wide_high)):
        if not low <= 1 <= high:
            raise ConfigError(f"archer: {low!r} and {high!r} bound the ratio and must have 1 between them")
    sure = low_entropy(old_entropy, mask, quantile=quantile) | ~mask
    return jnp.where(sure, narrow_low, wide_low), jnp.where(sure, narrow_high, wide_high)
