"""Reward for an undecided policy while its entropy is below a target."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok import masked
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.types import Leaf, pytree


@pytree
class EntropyController:
    """The coefficient that the next update uses."""

    coefficient: Leaf  # f[]


def adaptive_entropy_bonus(
    entropy: Float[Array, "B T"], prepared: Float[Array, " B"], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """Negated entropy of the current policy, times a coefficient that steers it to a target, 0 where masked.

        loss[b,t] = -c H[b,t] if mean H < target else 0
        after each update: c <- clip(c + step_size, lowest, highest) if mean H < target, c - step_size else

    Skywork-OR1, https://arxiv.org/abs/2505.22312; the mean is over the trained tokens of the whole minibatch, the
    defaults are those of the released scripts (the paper also names a step of 0.005). As in the paper an update uses
    the coefficient that the ones before it led to, so the first has `start`. The coefficient is in the loss: the
    recipe's weight stays 1. A minibatch without a trained token changes nothing. In nats.

    Raises:
        ConfigError: not lowest <= start <= highest, or `step_size` is negative.

    Fidelity: code.
    Degenerate: step_size = 0 is `entropy_bonus` with the weight `start`, while the entropy is below the target.
    """
    return -prepared[:, None] * jnp.where(mask, entropy, 0)


def init(*, start: float = 0.0, lowest: float = 0.0, highest: float = 0.005) -> EntropyController:
    """Returns the controller before the first update."""
    if not lowest <= start <= highest:
        raise ConfigError(
            f"adaptive_entropy_bonus: start = {start!r} must lie between lowest = {lowest!r} and highest = {highest!r}"
        )
    return EntropyController(coefficient=jnp.asarray(start, jnp.result_type(float)))


def prepare(
    state: EntropyController,
    entropy: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    target: float = 0.2,
    step_size: float = 1e-4,
    lowest: float = 0.0,
    highest: float = 0.005,
    axis_name: str | None = None,
) -> tuple[Float[Array, " B"], EntropyController]:
    """Returns the coefficient of this update for each row, and the controller after it."""
    if step_size < 0:
        raise ConfigError(f"adaptive_entropy_bonus: step_size = {step_size!r} must be at least 0")
    below = masked.mean(entropy, mask, axis_name=axis_name) < target
    present = masked.count(mask, entropy, axis_name=axis_name) > 0
    moved = jnp.clip(state.coefficient + jnp.where(below, step_size, -step_size), lowest, highest)
    used = jnp.where(below & present, state.coefficient, 0).astype(entropy.dtype)
    after = EntropyController(jnp.where(present, moved, state.coefficient))
    return jnp.broadcast_to(used, mask.shape[:1]), after
