"""A temperature for each token, by how uncertain it is."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores.normalized_entropy import EntropyScale, on_scale


def init() -> EntropyScale:
    """The scale before the first batch, on which every temperature is the request's own."""
    return EntropyScale(*jnp.zeros(3))


def adaptive_temperature(
    logits: Float[Array, "B V"], scale: EntropyScale, *, strength: float = 0.05, as_released: bool = False
) -> Float[Array, "B V"]:
    """Divides the logits of undecided tokens by more than 1 and those of decided ones by less.

        z[b, v] = logits[b, v] / (1 + strength * h[b])

    with h[b] in [-1, 1] from the entropy of softmax(logits[b]): see `token_temperature`. The request's own
    temperature comes after it.

    HAPO, https://arxiv.org/abs/2509.16591.

    Raises:
        ConfigError: `strength` not in [0, 1).

    Fidelity: code.
    Degenerate: strength = 0 or a scale of zeros leaves the logits as they are.
    """
    entropy = next_token_entropy(logits)
    factor = token_temperature(entropy, jnp.ones_like(entropy), scale, strength=strength, as_released=as_released)
    return logits / factor[:, None]


def token_temperature(
    entropy: Float[Array, "*S"],
    temperature: Float[Array, "*S"],
    scale: EntropyScale,
    *,
    strength: float = 0.05,
    as_released: bool = False,
) -> Float[Array, "*S"]:
    """Temperature of each token: a request's own, and up to `strength` of it more or less.

        T = temperature * (1 + strength * h),   h = `on_scale(entropy, scale)` in [-1, 1]

    HAPO, https://arxiv.org/abs/2509.16591: tokens of an entropy above the batch's 0.8-quantile are sampled hotter, the
    others cooler. A token's log-prob is under its own temperature, so the trainer has to score with these: store them
    with the tokens.

    `entropy` is of the logits as they are, before any temperature, and `scale` is `entropy_scale` of the batch before,
    under the policy that sampled it. Zeros are a scale too, for the first batch, on which T = temperature. The code
    takes the scale from entropies at the sampling temperature, which is 1 there, and puts entropies under 1e-6 where
    this puts those under 1e-8, at the cool end. Temperature 0 stays 0.

    `as_released` gives the sign of the released code, which divides the negative side by its negative minimum: there
    the most certain tokens are sampled hotter too, against the paper. 0.05 is the paper's.

    Raises:
        ConfigError: `strength` not in [0, 1).
    """
    check(strength=strength)
    return temperature * (1 + strength * on_scale(entropy, scale, as_released=as_released))


def check(*, strength: float = 0.05, as_released: bool = False) -> None:
    """Refuses what could make a temperature 0 or less.

    Raises:
        ConfigError: `strength` not in [0, 1).
    """
    if not 0 <= strength < 1:
        raise ConfigError(f"adaptive_temperature: strength = {strength!r} must lie in [0, 1), or T may not be positive")


def next_token_entropy(logits: Float[Array, "B V"]) -> Float[Array, " B"]:
    """Entropy of softmax(logits) in nats; logits of -inf count nothing."""
    logprobs = jax.nn.log_softmax(logits, axis=-1)
    probs = jnp.exp(logprobs)
    return -jnp.sum(probs * jnp.where(probs > 0, logprobs, 0), axis=-1)
