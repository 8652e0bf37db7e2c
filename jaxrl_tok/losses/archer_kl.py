"""Penalty on the distance from the reference policy where the policy was sure of itself."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.scores import kl_estimate, low_entropy


def archer_kl(
    logprobs: Float[Array, "B T"],
    ref_logprobs: Float[Array, "B T"],
    old_entropy: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    quantile: float = 0.8,
) -> Float[Array, "B T"]:
    """KL divergence from the frozen reference on the low-entropy tokens of each completion, 0 on all others.

        loss[b,t] = k3(logprobs, ref_logprobs) if H[b,t] <= Q_b else 0
        Q_b = linear quantile of H[b] over the trained tokens

    Archer, https://arxiv.org/abs/2507.15778, which weighs it 0.001 and leaves the other tokens free; its clip is
    `archer`, and `quantile` is to be the same in both. The average is over the low tokens only. k3 is bounded as
    verl does. In nats.

    Raises:
        ConfigError: `quantile` is not in [0, 1].

    Fidelity: code. At a batch's first update; later ones keep the old policy's entropies.
    Degenerate: quantile = 1 is `kl`.
    """
    low = low_entropy(old_entropy, mask, quantile=quantile)
    logprobs, ref_logprobs = jnp.where(low, logprobs, 0), jnp.where(low, ref_logprobs, 0)
    return kl_estimate(logprobs, ref_logprobs, estimator="k3", clamp=True)


def counted(old_entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], *, quantile: float = 0.8) -> Bool[Array, "B T"]:
    """Marks the tokens that the penalty is averaged over."""
    return low_entropy(old_entropy, mask, quantile=quantile)
