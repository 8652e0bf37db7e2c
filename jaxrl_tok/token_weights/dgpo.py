"""Credit where the policy has moved away from the reference and is undecided."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def dgpo(
    hellinger: Float[Array, "P G T"],
    old_entropy: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    vocab_size: int = 152064,
    temperature: float = 0.5,
    kappa: float = 1.0,
) -> Float[Array, "P G T"]:
    """Spreads each completion's credit by a softmax of distance from the reference times entropy.

        s[p,g,t] = hellinger[p,g,t] * (H[p,g,t] / log V)^kappa
        w[p,g,t] = n[p,g] * softmax_t(s[p,g] / temperature)

    DGPO, https://arxiv.org/abs/2605.03327. n is the number of trained tokens, so weights have mean 1 over a
    completion; since s lies in [0, 1], each lies in [exp(-1/temperature), exp(1/temperature)]. `hellinger` is
    sqrt(1 - sum_v sqrt(p q)); one re-implementation takes its square. `vocab_size` is V, by default that of the
    paper's Qwen2.5-32B: set it to your model's. Distance and entropy (nats) are the old policy's, as at the first
    update.

    Raises:
        ConfigError: `temperature` is not positive, `kappa` negative, or `vocab_size` below 2.

    Fidelity: paper. From two re-implementations that agree on it.
    Degenerate: temperature -> inf, or a policy equal to the reference, is `uniform`; kappa = 0 ignores the entropy.
    """
    if temperature <= 0 or kappa < 0 or vocab_size < 2:
        raise ConfigError(
            f"dgpo: temperature = {temperature!r} must be above 0, kappa = {kappa!r} at least 0 "
            f"and vocab_size = {vocab_size!r} at least 2"
        )
    entropy = jnp.maximum(jnp.where(mask, old_entropy, 1), 0) / math.log(vocab_size)
    scores = jnp.where(mask, hellinger, 0) * entropy**kappa / temperature
    _, top = masked.bounds(scores, mask, axis=2)
    powers = jnp.where(mask, jnp.exp(scores - top), 0)
    n, total = masked.count(mask, powers, axis=2), jnp.sum(powers, axis=2, keepdims=True)
    return jax.lax.stop_gradient(n * powers / jnp.where(total > 0, total, 1))
