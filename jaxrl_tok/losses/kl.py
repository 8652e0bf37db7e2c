"""Penalty on the distance from the reference policy."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores.kl_estimate import Estimator, kl_estimate


def kl(
    logprobs: Float[Array, "B T"],
    ref_logprobs: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    log_ratio: Float[Array, "B T"] | None = None,
    *,
    estimator: Estimator = "k3",
    straight_through: bool = False,
    clamp: bool = False,
    bias_corrected: bool = False,
) -> Float[Array, "B T"]:
    """KL divergence of the policy from the frozen reference, estimated at each token, 0 where masked.

        k1 = d        k2 = d^2 / 2        k3 = exp(-d) - 1 + d        abs = |d|,   d = logprobs - ref_logprobs
        with `bias_corrected`: times exp(log_ratio)

    k3 in the loss is GRPO's, Shao et al. 2024, https://arxiv.org/abs/2402.03300. Differentiated as a loss on
    tokens of the current policy, only k2 has the gradient of the KL as its mean; that of k1 has mean 0.
    `straight_through` gives the value of the estimator and the gradient of k2 (verl's "k1+", "k3+").
    `bias_corrected` is TRL's `use_bias_correction_kl`, from https://arxiv.org/abs/2512.02556: weighted by the ratio,
    whose gradient counts, k1 and k3 on tokens of the old policy have the KL and its gradient as their means. `clamp`
    bounds k3 as verl always does: d to +-20, then k3 to +-10. In nats.

    Raises:
        ConfigError: `bias_corrected` without a `log_ratio`, or with `straight_through`, which is another correction.

    Fidelity: code.
    Degenerate: at the reference it is 0, by every estimator.
    """
    logprobs, ref_logprobs = jnp.where(mask, logprobs, 0), jnp.where(mask, ref_logprobs, 0)
    value = kl_estimate(logprobs, ref_logprobs, estimator=estimator, clamp=clamp)
    if bias_corrected:
        if log_ratio is None or straight_through:
            wanted = "the array log_ratio" if log_ratio is None else "straight_through = false"
            raise ConfigError(f"kl: bias_corrected = true needs {wanted}")
        return value * jnp.exp(jnp.where(mask, log_ratio, 0))
    if not straight_through:
        return value
    carrier = kl_estimate(logprobs, ref_logprobs, estimator="k2")
    return jax.lax.stop_gradient(value - carrier) + carrier
