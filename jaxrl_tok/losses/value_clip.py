"""Regression of a critic, clipped around its old values."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def value_clip(
    values: Float[Array, "B T"],
    old_values: Float[Array, "B T"],
    returns: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    clip: float = 0.2,
) -> Float[Array, "B T"]:
    """Half the squared error of a critic, or that of its value clipped around the old one if larger.

        loss[b,t] = 1/2 max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2)

    PPO's value clipping as examined by Engstrom et al. 2020, https://arxiv.org/abs/2005.12729; 0.2 in OpenRLHF
    and TRL, 0.5 in verl. No gradient where the value has left the interval towards its target. Gradients flow
    through `values` only. 0 where masked.

    Raises:
        ConfigError: `clip` is not above 0.

    Fidelity: code. The forms of verl, TRL and OpenRLHF.
    Degenerate: a clip larger than any change of the values gives half the squared error.
    """
    if not clip > 0:
        raise ConfigError(f"value_clip: clip = {clip!r} must be above 0")
    values, old_values, returns = (jnp.where(mask, x, 0) for x in (values, old_values, returns))
    clipped = jnp.clip(values, old_values - clip, old_values + clip)
    return jnp.maximum((values - returns) ** 2, (clipped - returns) ** 2) / 2
