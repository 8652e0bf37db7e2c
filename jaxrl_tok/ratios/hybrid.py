"""Mixture of the token's and the completion's ratio."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.ratios.sequence import sequence
from jaxrl_tok.ratios.token import token


def hybrid(
    logprobs: Float[Array, "B T"],
    old_logprobs: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    entropy: Float[Array, "B T"] | None = None,
    *,
    mixing: Literal["average", "entropy"] = "average",
    weight: float = 0.5,
    token_low: float = 0.8,
    token_high: float = 1.2,
    sequence_low: float = 0.9997,
    sequence_high: float = 1.0004,
) -> Float[Array, "B T"]:
    """Log of a mixture of two ratios, each clipped first on the side on which PPO clips.

        log(w r' + (1 - w) s'),   r' = min(r, token_high) where A > 0, max(r, token_low) elsewhere; s' likewise
        r = exp(log-ratio of the token), s = exp(mean log-ratio of the completion)

    DHPO, https://arxiv.org/abs/2601.05607: known of it is that the branches are clipped before they are mixed, and
    that the weight is 1/2 or follows the entropy, without a gradient. Ours are the side of the clip (so that both
    ends are the known methods), the bounds (PPO's and GSPO's) and the normalisation: with `mixing = "entropy"`
    w[b,t] = H[b,t] / max_u H[b,u], and `weight` where a completion's entropy is 0 throughout. As the clip is in
    here, the clip slot should stay open: `asymmetric` with low = 0, high = inf, which `configs/recipes/dhpo.toml`
    sets. The completion's branch has GSPO-token's gradient. 0 where masked.

    Raises:
        ConfigError: `weight` is not in [0, 1], bounds do not have 1 between them, or `mixing = "entropy"` and there
            is no `entropy`.

    Fidelity: reconstructed.
    Degenerate: weight = 1 is `token` with `asymmetric`, weight = 0 is `sequence` with `asymmetric`, under `ppo_clip`.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"hybrid: weight = {weight!r} must lie in [0, 1]")
    if not (token_low <= 1 <= token_high and sequence_low <= 1 <= sequence_high):
        raise ConfigError(
            f"hybrid: token_low = {token_low!r}, token_high = {token_high!r}, sequence_low = {sequence_low!r} and "
            f"sequence_high = {sequence_high!r} bound ratios and must have 1 between them"
        )
    up = jnp.where(mask, advantages, 0) > 0
    of_token = token(logprobs, old_logprobs, mask)
    # A completion's ratio has no lower bound of its own; the token's keeps the logarithm below finite.
    of_sequence = jnp.maximum(sequence(logprobs, old_logprobs, mask), -20)
    ratio = jnp.where(up, jnp.minimum(jnp.exp(of_token), token_high), jnp.maximum(jnp.exp(of_token), token_low))
    whole = jnp.exp(of_sequence)
    whole = jnp.where(up, jnp.minimum(whole, sequence_high), jnp.maximum(whole, sequence_low))
    w = weight if mixing == "average" else _normalised(entropy, mask, weight)
    return jnp.where(mask, jnp.log(w * ratio + (1 - w) * whole), 0)


def _normalised(entropy: Float[Array, "B T"] | None, mask: Bool[Array, "B T"], weight: float) -> Float[Array, "B T"]:
    if entropy is None:
        raise ConfigError('hybrid: mixing = "entropy" needs the array entropy')
    entropy = jax.lax.stop_gradient(jnp.where(mask, entropy, 0))
    highest = jnp.max(entropy, axis=1, keepdims=True)
    return jnp.where(highest > 0, entropy / jnp.where(highest > 0, highest, 1), weight)
