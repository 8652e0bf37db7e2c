"""Gain of each segment from the values of the states around it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def value_differences(
    state_values: Float[Array, "P G S1"],
    step_rewards: Float[Array, "P G S"],
) -> Float[Array, "P G S"]:
    """Reward of a step plus the change of value over it.

        A[p,g,k] = r[p,g,k] + V[p,g,k+1] - V[p,g,k]

    VinePPO, https://arxiv.org/abs/2410.01679. A value that was not estimated (NaN) is taken to be r[k] + V[k+1], so
    that its step gets exactly 0 and the step before it the gain of both; after the last step it is 0.
    """
    values, rewards = jnp.moveaxis(state_values, 2, 0), jnp.moveaxis(step_rewards, 2, 0)
    end = jnp.where(jnp.isnan(values[-1]), 0, values[-1])

    def back(after: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        value, reward = state
        reached = reward + after
        value = jnp.where(jnp.isnan(value), reached, value)
        return value, reached - value

    _, differences = jax.lax.scan(back, end, (values[:-1], rewards), reverse=True)
    return jnp.moveaxis(differences, 0, 2)
