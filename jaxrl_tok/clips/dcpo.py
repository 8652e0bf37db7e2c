"""Wider bounds for tokens that were unlikely."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def dcpo(
    old_logprobs: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.28,
    cap: float = 10.0,
    as_released: bool = False,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Bounds on the ratio that depend on the token's old probability q.

        low  = (1 + sqrt(max(1 - 4 epsilon_low / q, 0))) / 2
        high = min((1 + sqrt(1 + 4 epsilon_high / q)) / 2, cap)

    DCPO, https://arxiv.org/abs/2509.02333: the ratios with -epsilon_low <= (r - 1) r q <= epsilon_high. Defaults
    are those of the released scripts; the paper's table has 0.16 and 0.2. From q = 1, where the bounds are 0.72 and
    1.23, they widen to 0.5 and the cap as q falls. Where q is 0 in the arithmetic used, the limit holds;
    `as_released` gives 1 and the cap there, as the released code does. The cap is that code's dual clip, and at
    least 10 there.

    Raises:
        ConfigError: an epsilon is negative, `epsilon_low` above 1/4 or `cap` below 1.

    Fidelity: code.
    Degenerate: both epsilons 0 leave the ratio at 1 from above, and 1 from below: no off-policy update.
    """
    if not (epsilon_low >= 0 and epsilon_high >= 0):
        raise ConfigError(f"dcpo: epsilon_low = {epsilon_low!r} and epsilon_high = {epsilon_high!r} must be at least 0")
    if cap < 1:
        raise ConfigError(f"dcpo: cap = {cap!r} bounds the ratio from above and must be at least 1")
    q = jnp.exp(jnp.where(mask, old_logprobs, 0))
    gone = q == 0
    q = jnp.where(gone, 1, q)
    low = (1 + jnp.sqrt(jnp.maximum(1 - 4 * epsilon_low / q, 0))) / 2
    high = jnp.minimum((1 + jnp.sqrt(1 + 4 * epsilon_high / q)) / 2, cap)
    return jnp.where(gone, 1.0 if as_released else 0.5, low), jnp.where(gone, cap, high)
