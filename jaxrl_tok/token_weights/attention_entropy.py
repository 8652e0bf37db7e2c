"""Credit for the tokens that look at one place, or for those that look at many."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def attention_entropy(
    attention_entropy: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    tokens: Literal["anchors", "explorers"] = "anchors",
    fraction: float = 0.2,
    amplify: float = 1.5,
) -> Float[Array, "P G T"]:
    """Weight `amplify` on the tokens of each completion with the lowest or highest attention entropy, 1 on the rest.

        w[p,g,t] = amplify on the ceil(fraction n[p,g]) smallest E[p,g,t] (anchors) or largest (explorers), else 1

    https://arxiv.org/abs/2605.07660 names the fifth of the tokens with the lowest entropy of attention anchors, and
    that with the highest explorers. E is `normalized_attention_entropy`, of `scores`, a mean over heads and layers.
    The paper's own weights are not known; these have the form of `flow`. Of equal ones the first are taken.

    Raises:
        ConfigError: `fraction` is not in (0, 1], or `amplify` negative.

    Fidelity: reconstructed. Entropy and classes are the paper's, the weights ours.
    Degenerate: amplify = 1 is `uniform`.
    """
    if not 0 < fraction <= 1 or amplify < 0:
        raise ConfigError(
            f"attention_entropy: fraction = {fraction!r} must lie in (0, 1] and amplify = {amplify!r} be at least 0"
        )
    top = masked.top_fraction(attention_entropy if tokens == "explorers" else -attention_entropy, mask, fraction)
    return jnp.where(mask, jnp.where(top, amplify, jnp.ones_like(attention_entropy)), 0)
