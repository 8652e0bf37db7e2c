"""A gate that opens for the tokens whose entropy is high in their group."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked


def erpo_gate(
    old_entropy: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    gamma: float = 1.0,
) -> Float[Array, "P G T"]:
    """Weight in (0, 1) that grows with the token's entropy, standardised over the tokens of its group.

        w[p,g,t] = sigmoid(gamma * (H[p,g,t] - mean_p H) / std_p H)

    The gate of ERPO, https://arxiv.org/abs/2603.28204, alone: how the paper joins it to the advantage is not known,
    and here it multiplies it. Mean and std (divides by n - 1) are over all trained tokens of the group. Entropies
    are the old policy's, in nats. `gamma` is ours.

    Fidelity: reconstructed. The gate's form is the paper's.
    Degenerate: gamma = 0, or a group whose entropies are all equal, gives every token 1/2.
    """
    groups = mask.shape[0], -1
    entropy, trained = old_entropy.reshape(groups), mask.reshape(groups)
    centred = jnp.where(trained, entropy - masked.mean(entropy, trained, axis=1), 0)
    centred = jnp.where(masked.is_constant(entropy, trained, axis=1), 0, centred)
    gate = jax.nn.sigmoid(gamma * centred / masked.std(entropy, trained, axis=1))
    return jax.lax.stop_gradient(jnp.where(trained, gate, 0)).reshape(mask.shape)
