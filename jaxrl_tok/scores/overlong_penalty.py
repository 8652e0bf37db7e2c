"""Penalty on completions that come near the limit."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok.errors import ConfigError


def overlong_penalty(
    lengths: Int[Array, "P G"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    max_length: int = 20480,
    cache_length: int = 4096,
    factor: float = 1.0,
) -> Float[Array, "P G"]:
    """Reward that falls from 0 to -factor over the last tokens before the limit, to be added to the outcome.

        y[p,g] = min(0, (max_length - cache_length - lengths[p,g]) / cache_length) factor

    DAPO's soft punishment, https://arxiv.org/abs/2503.14476, with its lengths, in the form of its code: nothing
    stops the fall at -factor but the limit itself. `lengths` counts all tokens of the completion, a tool's
    output too. 0 for a completion that is not valid.

    Raises:
        ConfigError: `cache_length` is not between 1 and `max_length`.
    """
    if not 1 <= cache_length <= max_length:
        raise ConfigError(
            f"overlong_penalty: cache_length = {cache_length!r} must lie between 1 and max_length = {max_length!r}"
        )
    left = (max_length - cache_length - lengths).astype(jnp.result_type(float))
    penalty = jnp.minimum(left / cache_length * factor, 0)
    return penalty if valid is None else jnp.where(valid, penalty, 0)
