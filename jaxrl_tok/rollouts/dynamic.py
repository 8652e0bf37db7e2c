"""New prompts in place of those whose rewards are all equal: DAPO's dynamic sampling."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.filters import informative_groups
from jaxrl_tok.rollouts.extend import Contains, Engine
from jaxrl_tok.rollouts.rounds import Round, nothing_more, requested
from jaxrl_tok.types import Sampled, Sampling


def check(group: int, max_tokens: int, contains: Contains, *, rounds: int) -> None:
    """Refuses groups that cannot have two rewards, and a batch that is never sampled.

    Raises:
      ConfigError: a group is one completion, or `rounds` is below 1.
    """
    if rounds < 1:
        raise ConfigError(f"rounds = {rounds}: expected at least 1")
    if group < 2:
        raise ConfigError(f"expected groups of at least 2 completions; rollout.group = {group}")


def dynamic(engine: Engine, keys: Key[Array, "P G"], sampling: Sampling) -> Sampled:
    """Samples groups until P of them have rewards that differ.

        round 0: the next P prompts;   then the next prompts, one for each group p with std_g r[p] = 0

    DAPO's dynamic sampling, Yu et al. 2025, https://arxiv.org/abs/2503.14476. Groups stand by `informative_groups`,
    but a group with one reward goes too. A round draws as many prompts as groups are missing, in the data's order, so
    that every prompt that is drawn is sampled, and none without need; the paper's code draws a batch a round and leaves
    out what is more than it needs. After `rounds` rounds the batch is what there is: the filter `informative_groups`
    then leaves out the groups that are still without a difference. A prompt that comes twice within a step has the same
    completions each time.
    """
    return requested(engine, keys, sampling)


def next_round(
    done: int, rewards: Float[np.ndarray, "P G"], valid: Bool[np.ndarray, "P G"], *, rounds: int = 10
) -> Round:
    """Returns the groups without a difference in their rewards, at most 10 times, as verl's scripts of DAPO."""
    prompts, group = rewards.shape
    keep = np.asarray(informative_groups(jnp.asarray(rewards), jnp.asarray(valid), singleton="drop"))
    missing = np.logical_not(np.any(keep, axis=1, keepdims=True))
    if done < rounds:
        return Round(np.repeat(missing, group, axis=1), missing[:, 0])
    short = f"{missing.sum()} of {prompts} groups have equal rewards after {rounds} rounds of sampling"
    lead = "easier or harder questions, larger groups or more rounds would fill the batch"
    return nothing_more(prompts, group, f"{short}; {lead}" if missing.any() else "")
