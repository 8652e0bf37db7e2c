"""Ratio of each token."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def token(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T"]:
    """Log-ratio of the current to the old policy at each token, 0 where masked.

        log rho[b,t] = clip(logprobs[b,t] - old_logprobs[b,t], -20, 20)

    PPO, Schulman et al. 2017, https://arxiv.org/abs/1707.06347. The bound of 20 nats keeps exp finite and
    ends the gradient, as in verl.

    Fidelity: code.
    Degenerate: at the old policy it is 0, a ratio of 1.
    """
    difference = jnp.where(mask, logprobs, 0) - jnp.where(mask, old_logprobs, 0)
    return jnp.clip(difference, -20, 20)
