"""Policy gradient without a ratio."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gpg(
    logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    token_weights: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
) -> Float[Array, "B T"]:
    """Negative log-likelihood of each token times its advantage, 0 where masked.

        loss[b,t] = -w[b,t] A[b,t] logprobs[b,t]

    REINFORCE's loss, under this name in GPG, https://arxiv.org/abs/2504.02546, and verl. Exact for tokens of the
    current policy; of the second update on the same batch it is not, having no ratio. Gradients flow through
    `logprobs` only.

    Fidelity: code.
    Degenerate: at a ratio of 1 its gradient is `ppo_clip`'s; advantages of 1 give `sft`.
    """
    weighted = jnp.where(mask, advantages, 0) * jnp.where(mask, token_weights, 0)
    return -weighted * jnp.where(mask, logprobs, 0)
