"""Train only on completions that came to their end."""

import jax.numpy as jnp
from jaxtyping import Array, Bool


def overlong(
    truncated: Bool[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
) -> Bool[Array, "P G"]:
    """Keeps the valid completions that were not stopped by their limit.

        keep[p,g] = not truncated[p,g]

    DAPO's overlong filtering, Yu et al. 2025, https://arxiv.org/abs/2503.14476: whatever reward a cut completion
    got says little about its tokens. The advantages are those of the whole group, cut completions included; what is
    dropped leaves every denominator.

    Fidelity: paper.
    Degenerate: without a truncated completion all valid ones are kept; a batch of truncated ones trains nothing.
    """
    valid = jnp.ones_like(truncated) if valid is None else valid
    return valid & ~truncated
