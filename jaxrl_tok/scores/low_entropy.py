"""The tokens of each completion at which the policy was sure of itself."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def low_entropy(
    old_entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], *, quantile: float = 0.8
) -> Bool[Array, "B T"]:
    """Marks the trained tokens whose entropy is at or below a quantile of their completion.

        low[b,t] = H[b,t] <= Q_b,   Q_b = linear quantile of H[b] over the trained tokens

    Archer, https://arxiv.org/abs/2507.15778. The entropies at or below the linear quantile are those at or below
    the order statistic under it, so nothing is interpolated. All ties at the quantile are low, and so are a
    completion's only token and all tokens of a constant entropy.

    Raises:
        ConfigError: `quantile` is not in [0, 1].
    """
    if not 0 <= quantile <= 1:
        raise ConfigError(f"low_entropy: quantile = {quantile!r} must lie in [0, 1]")
    n = masked.count(mask, old_entropy, axis=1)[:, 0]
    k = (jnp.floor(quantile * (n - 1)) + 1).astype(jnp.int32)
    return masked.largest(-old_entropy, mask, k, keep_ties=True)
