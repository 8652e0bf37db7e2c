"""More completions for the prompts that the first ones mostly fail: the rollouts of DARS."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import Contains, Engine
from jaxrl_tok.rollouts.rounds import Round, nothing_more, requested
from jaxrl_tok.scores import dars_extra_samples
from jaxrl_tok.types import Sampled, Sampling


def check(group: int, max_tokens: int, contains: Contains, *, first: int) -> None:
    """Refuses a group that has no place for more completions.

    Raises:
      ConfigError: `first` is out of its range.
    """
    if not 1 <= first < group:
        raise ConfigError(f"first = {first}: expected 1 to {group - 1}, less than rollout.group = {group}")


def dars(engine: Engine, keys: Key[Array, "P G"], sampling: Sampling, *, first: int = 8) -> Sampled:
    """Samples `first` completions a prompt, and once their rewards are known, more of the hard prompts.

        rollout.group = G places;   places 0 .. first - 1, then first .. first + more[p] - 1,   more <= G - first

    DARS, Yang et al. 2025, https://arxiv.org/abs/2508.13755, with the 8 completions of its first phase; `more` are
    those of `dars_extra_samples`. A place has the completion that a larger group would have there, so what is added
    follows on what there is. The other places have no token and do not exist. The paper drops prompts that are then all
    right or all wrong (filter `informative_groups`) and takes the reward minus the group's mean (`dr_grpo`).

    At most `first` completions a prompt run at once, as many as the first phase has; what the second has beyond waits
    for a slot.
    """
    slots = min(engine.slots, keys.shape[0] * first)
    return requested(dataclasses.replace(engine, slots=slots), keys, sampling)


def next_round(
    done: int,
    rewards: Float[np.ndarray, "P G"],
    valid: Bool[np.ndarray, "P G"],
    *,
    first: int = 8,
    schedule: Literal["equal_treatment", "hardness_weighted"] = "equal_treatment",
    std: bool = False,
) -> Round:
    """Returns the first completions of all prompts, then those that `schedule` gives the hard ones."""
    prompts, group = rewards.shape
    place = np.arange(group)[None]
    if done == 0:
        return Round(np.broadcast_to(place < first, (prompts, group)), np.ones(prompts, bool))
    if done > 1:
        return nothing_more(prompts, group)
    known = jnp.asarray(rewards[:, :first]), jnp.asarray(valid[:, :first])
    more = np.asarray(dars_extra_samples(*known, most=group - first, schedule=schedule, std=std))
    return Round((place >= first) & (place < first + more[:, None]), np.zeros(prompts, bool))
