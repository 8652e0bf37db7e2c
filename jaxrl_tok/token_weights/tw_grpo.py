"""Weights for the positions at which the completions of a group disagree."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def tw_grpo(
    group_divergence: Float[Array, "P T"],
    mask: Bool[Array, "P G T"],
    *,
    alpha: float = 1.7,
    as_released: bool = False,
) -> Float[Array, "P G T"]:
    """Weight from 1 to `alpha` by how much the group's next-token distributions differ at the position.

        w[p,g,t] = 1 + (alpha - 1) * (K[p,t] - min_t K[p]) / (max_t K[p] - min_t K[p] + 1e-8)

    TW-GRPO, https://arxiv.org/abs/2505.24718, with the script's `alpha` (the code's own default is 1.4). K is
    `group_divergence`, of `scores`. Completions are compared at equal positions, although their contexts differ
    there. Minimum and maximum are over the positions that a completion of the group trains. `as_released` takes
    them over all positions, as the code does, with K = 0 where the whole group is padding: there weights depend on
    how far the batch is padded. The code does not detach the weights, so that its loss has the term -A dw; here
    they are constants.

    Raises:
        ConfigError: `alpha` is negative.

    Fidelity: code.
    Degenerate: alpha = 1, a group of one, or completions with equal distributions: `uniform`.
    """
    if alpha < 0:
        raise ConfigError(f"tw_grpo: alpha = {alpha!r} must be at least 0")
    trained = jnp.any(mask, axis=1)
    divergence = jnp.where(trained, group_divergence, 0)
    low, high = masked.bounds(divergence, jnp.ones_like(trained) if as_released else trained, axis=1)
    weights = 1 + (alpha - 1) * (divergence - low) / (high - low + 1e-8)
    return jax.lax.stop_gradient(jnp.where(mask, weights[:, None, :], 0))
