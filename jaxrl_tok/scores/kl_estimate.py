"""Estimates of the KL divergence from the log-probs of sampled tokens."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float

Estimator: TypeAlias = Literal["k1", "k2", "k3", "abs"]


def kl_estimate(
    logprobs: Float[Array, "*S"],
    ref_logprobs: Float[Array, "*S"],
    *,
    estimator: Estimator = "k3",
    clamp: bool = False,
) -> Float[Array, "*S"]:
    """Estimates KL(policy || reference) at each token from one sample of the policy.

        d = logprobs - ref_logprobs
        k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d        abs = |d|

    Schulman 2020, http://joschu.net/blog/kl-approx.html; k3 is the one in GRPO,
    https://arxiv.org/abs/2402.03300. k1 and k3 have the KL as their mean, k1 with the larger variance and
    either sign; k2 is biased; |d| is only a distance. In nats. `clamp` bounds k3 as verl does: d to +-20 and
    then k3 to +-10, where its gradient ends.
    """
    difference = logprobs - ref_logprobs
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return difference**2 / 2
    if estimator == "abs":
        return jnp.where(difference == 0, 0, jnp.abs(difference))  # JAX differentiates |x| at 0 as 1
    if not clamp:
        return jnp.expm1(-difference) + difference
    difference = jnp.clip(difference, -20, 20)
    return jnp.clip(jnp.expm1(-difference) + difference, -10, 10)
