"""Rollouts in rounds: after each, the rewards so far say what is sampled next.

A method in rounds has a function beside it, `next_round(done, rewards, valid, *, hyperparameters) -> Round`, which the
trainer calls on the host: with no round done, and with zeros for rewards, before the first one. The method itself is
called once a round and samples the places with a limit above 0.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Key

from jaxrl_tok.rollouts.extend import Engine, extend
from jaxrl_tok.rollouts.generate import as_rollouts, independent
from jaxrl_tok.types import Sampled, Sampling


class Round(NamedTuple):
    """What is sampled next."""

    wanted: Bool[np.ndarray, "P G"]  # places that get a completion; none = the batch is done
    fresh: Bool[np.ndarray, " P"]  # rows that get the next prompts of the data; what was sampled in them goes
    warning: str = ""  # of a batch that is done, and not what it should be


def nothing_more(prompts: int, group: int, warning: str = "") -> Round:
    """Returns the round after the last one."""
    return Round(np.zeros((prompts, group), bool), np.zeros(prompts, bool), warning)


def requested(engine: Engine, keys: Key[Array, "P G"], sampling: Sampling) -> Sampled:
    """Samples an independent completion in each place with a limit above 0; the others have no token.

    A place has the completion that it would have if all were sampled: its key says which.
    """
    requests = independent(engine, keys, sampling)
    done = extend(engine, dataclasses.replace(requests, wanted=requests.sampling.limit > 0), engine.max_tokens)
    rollouts = as_rollouts(done, sampling)
    rollouts = dataclasses.replace(rollouts, truncated=rollouts.truncated & (sampling.limit > 0))
    return Sampled(rollouts, {}, done.lengths.reshape(keys.shape).sum(1, dtype=jnp.int32))
