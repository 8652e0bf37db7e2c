"""Completions and rollouts from between the places where the policy was undecided: those of SPO-chain."""

import functools

from jaxtyping import Array, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import Contains, Engine
from jaxrl_tok.rollouts.probes import SUPPLIES as SUPPLIES
from jaxrl_tok.rollouts.probes import check_probes, probed
from jaxrl_tok.scores import spo_cutpoints
from jaxrl_tok.types import Rollouts, Sampled, Sampling


def check(
    group: int, max_tokens: int, contains: Contains, *, samples: int, segments: int, threshold: float, interval: int
) -> None:
    """Refuses what gives no values.

    Raises:
      ConfigError: a number is out of its range.
    """
    check_probes(samples, segments)
    if interval < 1:
        raise ConfigError(f"interval = {interval}: expected at least 1")
    if threshold <= 0:
        raise ConfigError(f"threshold = {threshold}: expected more than 0, or there is no segment")


def spo_chain(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    samples: int = 9,
    segments: int = 16,
    threshold: float = 0.9,
    interval: int = 5,
) -> Sampled:
    """Samples independent completions, and 9 rollouts from each place where `spo_cutpoints` cuts them.

        V[p,g,k] = mean reward of the rollouts from the state before segment k

    SPO, Guo et al. 2025, https://arxiv.org/abs/2505.23564, with the numbers of its code. It cuts by the trainer's
    probabilities, recomputed; here they are the sampler's, which those are to rounding where no token is filtered out.
    `segments` bounds the number of segments of a completion, which has no bound there (`probed`).
    """
    cut = functools.partial(_cut, threshold=threshold, interval=interval)
    return probed(engine, keys, sampling, cut, samples=samples, segments=segments)


def _cut(rollouts: Rollouts, *, threshold: float, interval: int) -> Array:
    return spo_cutpoints(rollouts.sampler_logprobs, rollouts.mask, threshold=threshold, interval=interval)
