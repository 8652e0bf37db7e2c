"""Cross-entropy of given completions."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def sft(logprobs: Float[Array, "B T"], mask: Bool[Array, "B T"]) -> Float[Array, "B T"]:
    """Negative log-likelihood of each completion token, 0 where masked.

        loss[b,t] = -logprobs[b,t]

    Supervised fine-tuning on the completion only, as the first step of InstructGPT,
    https://arxiv.org/abs/2203.02155. In nats.

    Fidelity: paper.
    Degenerate: it is `gpg` with advantages and weights of 1.
    """
    return -jnp.where(mask, logprobs, 0)
