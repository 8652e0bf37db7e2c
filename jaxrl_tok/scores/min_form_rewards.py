"""Step rewards weighted so that their sum is nearly their minimum."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxrl_tok.errors import ConfigError


def min_form_rewards(
    step_rewards: Float[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    *,
    temperature: float = 0.1,
) -> Float[Array, "P G S"]:
    """Each step's reward times its weight in a soft minimum over the completion's steps.

        x[p,g,s] = softmax_s(-r[p,g,s] / temperature) r[p,g,s]

    PURE, https://arxiv.org/abs/2504.15275, and temperature 0.1 its. The lower the temperature, the nearer is the sum
    over the steps to the lowest reward; an infinite one gives each reward over the number of steps, a mean. One step
    keeps its reward. 0 for a step that does not exist.

    Raises:
        ConfigError: `temperature` is not positive.
    """
    if temperature <= 0:
        raise ConfigError(f"min_form_rewards: temperature = {temperature!r} must be above 0")
    rewards = jnp.where(step_mask, step_rewards, 0)
    weights = jax.nn.softmax(rewards / -temperature, axis=2, where=step_mask)
    return jnp.where(step_mask, weights * rewards, 0)
