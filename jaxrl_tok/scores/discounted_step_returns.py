"""Sum of the discounted rewards from each step on."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def discounted_step_returns(
    step_rewards: Float[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    *,
    gamma: float = 0.95,
) -> Float[Array, "P G S"]:
    """Discounted return of each step of a trajectory.

        R[p,g,k] = r[p,g,k] + gamma R[p,g,k+1]

    GiGPO, https://arxiv.org/abs/2505.10978, whose gamma 0.95 is. A step that does not exist has reward 0 and return
    0, and takes one discount.
    """
    rewards = jnp.moveaxis(jnp.where(step_mask, step_rewards, 0), 2, 0)

    def back(after: Array, reward: Array) -> tuple[Array, Array]:
        here = reward + gamma * after
        return here, here

    _, before = jax.lax.scan(back, rewards[-1], rewards[:-1], reverse=True)
    returns = jnp.concatenate([before, rewards[-1:]])
    return jnp.where(step_mask, jnp.moveaxis(returns, 0, 2), 0)
