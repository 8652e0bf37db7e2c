"""Penalty on the distance from the reference policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores.kl_estimate import Estimator, kl_estimate


def kl(
    logprobs: Float[Array, "B T"],
    ref_logprobs: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    estimator: Estimator = "k3",
    straight_through: bool = False,
    clamp: bool = False,
) -> Float[Array, "B T"]:
    """KL divergence of the policy from the frozen reference, estimated at each token, 0 where masked.

        k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d        abs = |d|,   d = logprobs - ref_logprobs

    k3 in the loss is GRPO's, Shao et al. 2024, https://arxiv.org/abs/2402.03300. Differentiated as a loss on
    tokens of the current policy, only k2 has the gradient of the KL as its mean; that of k1 has mean 0.
    `straight_through` gives the value of the estimator and the gradient of k2 (verl's "k1+", "k3+"). `clamp`
    bounds k3 as verl always does: d to +-20, then k3 to +-10. In nats.
    """
    logprobs, ref_logprobs = jnp.where(mask, logprobs, 0), jnp.where(mask, ref_logprobs, 0)
    value = kl_estimate(logprobs, ref_logprobs, estimator=estimator, clamp=clamp)
    if not straight_through:
        return value
    carrier = kl_estimate(logprobs, ref_logprobs, estimator="k2")
    return jax.lax.stop_gradient(value - carrier) + carrier
