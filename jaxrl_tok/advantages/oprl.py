"""Leave-one-out advantages of episodes and of their steps."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxrl_tok import masked
from jaxrl_tok.advantages.rloo import rloo
from jaxrl_tok.scores import leave_one_out, spread


def oprl(
    rewards: Float[Array, "P G"],
    segment_ids: Int[Array, "P G T"],
    step_rewards: Float[Array, "P G S"],
    step_mask: Bool[Array, "P G S"],
    mask: Bool[Array, "P G T"],
    valid: Bool[Array, "P G"] | None = None,
    *,
    step_weight: float = 1.0,
    as_released: bool = False,
    singleton: Literal["zero", "raw"] = "zero",
) -> Float[Array, "P G T"]:
    """Reward minus that of the group's other trajectories, plus the step's minus that of the group's other steps.

        A[p,g,t] = r[p,g] - mean of the other r[p] + step_weight (q[p,g,k] - mean of the other q[p])
        k = segment_ids[p,g,t],   q = step_rewards

    OPRL, https://arxiv.org/abs/2509.19199, released as iStar; q are there the `implicit_step_rewards` of a reward
    model that is trained along. The other steps are those of all trajectories, the own included. The authors' code
    takes its baseline from the first steps of the n trajectories only: `as_released` gives its (q - mean of the first
    steps) n / (n - 1). A token outside of steps has the first part alone. Equal rewards make that part exactly 0,
    equal step rewards the other. With nothing to compare with, a part is 0, or with `singleton = "raw"` the reward
    itself, as in the authors' code.

    Fidelity: code. As released; otherwise the paper's intent.
    Degenerate: step_weight = 0 is `rloo`.
    """
    if valid is not None:
        mask, step_mask = mask & valid[:, :, None], step_mask & valid[:, :, None]
    against = _against_first_steps if as_released else _against_other_steps
    step = against(step_rewards, step_mask, singleton)
    return rloo(rewards, mask, valid, singleton=singleton) + step_weight * spread(segment_ids, step, mask)


def _against_other_steps(
    step_rewards: Float[Array, "P G S"], step_mask: Bool[Array, "P G S"], singleton: Literal["zero", "raw"]
) -> Float[Array, "P G S"]:
    """Step reward minus the mean of all other steps of the group."""
    rewards, existing = (x.reshape(x.shape[0], -1) for x in (step_rewards, step_mask))
    return leave_one_out(rewards, existing, singleton=singleton).reshape(step_rewards.shape)


def _against_first_steps(
    step_rewards: Float[Array, "P G S"], step_mask: Bool[Array, "P G S"], singleton: Literal["zero", "raw"]
) -> Float[Array, "P G S"]:
    """Step reward minus the mean of the trajectories' first ones, by n / (n - 1), n the number of trajectories."""
    first = step_mask & (jnp.cumsum(step_mask, axis=2) == 1)
    of_first = jnp.sum(jnp.where(first, step_rewards, 0), axis=2)
    some = jnp.any(step_mask, axis=2)
    mean = masked.mean(of_first, some, axis=1)
    mean = jnp.where(masked.is_constant(of_first, some, axis=1), masked.bounds(of_first, some, axis=1)[0], mean)
    n = masked.count(some, of_first, axis=1)
    alone = step_rewards if singleton == "raw" else jnp.zeros_like(step_rewards)
    compared = (step_rewards - mean[:, :, None]) * (n / jnp.maximum(n - 1, 1))[:, :, None]
    return jnp.where(step_mask, jnp.where(n[:, :, None] > 1, compared, alone), 0)
