"""Credit for the tokens through which most of the attention flows from question to answer."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError


def flow(
    attention_flow: Float[Array, "P G T"],
    mask: Bool[Array, "P G T"],
    *,
    fraction: float = 0.4,
    amplify: float = 1.5,
) -> Float[Array, "P G T"]:
    """Weight `amplify` on the tokens of each completion with the largest throughput, 1 on the rest.

        w[p,g,t] = amplify on the ceil(fraction n[p,g]) largest flow[p,g,t], else 1

    FlowTracer, https://arxiv.org/abs/2606.10646. `attention_flow` is the throughput of `flow_throughput`, of
    `scores`, at the completion's tokens. Of equal ones the first are taken. Weights are constants.

    Raises:
        ConfigError: `fraction` is not in (0, 1], or `amplify` negative.

    Fidelity: paper.
    Degenerate: amplify = 1 is `uniform`.
    """
    if not 0 < fraction <= 1 or amplify < 0:
        raise ConfigError(f"flow: fraction = {fraction!r} must lie in (0, 1] and amplify = {amplify!r} be at least 0")
    top = masked.top_fraction(attention_flow, mask, fraction)
    return jnp.where(mask, jnp.where(top, amplify, jnp.ones_like(attention_flow)), 0)
