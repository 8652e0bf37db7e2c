"""Completions and rollouts from between their steps: those of VinePPO."""

import functools
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import Contains, Engine
from jaxrl_tok.rollouts.probes import SUPPLIES as SUPPLIES
from jaxrl_tok.rollouts.probes import check_probes, probed
from jaxrl_tok.types import Rollouts, Sampled, Sampling


def check(group: int, max_tokens: int, contains: Contains, *, samples: int, segments: int, separator: str) -> None:
    """Refuses what gives no values.

    Raises:
      ConfigError: a number is out of its range, no token has the separator.
    """
    check_probes(samples, segments)
    if not separator or not contains(separator).any():
        raise ConfigError(f"separator = {separator!r}: expected text that some token of the vocabulary has in it")


def vine_ppo(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    samples: int = 9,
    segments: int = 16,
    separator: str = "\n",
) -> Sampled:
    """Samples independent completions, and 9 rollouts from the state before each of their steps.

        V[p,g,k] = mean reward of the rollouts from the state before step k

    VinePPO, Kazemnejad et al. 2024, https://arxiv.org/abs/2410.01679. A step begins with the completion and behind each
    token with the `separator` in its text; the end token belongs to the last step. Its code cuts MATH's solutions by
    rules for LaTeX, and has no bound on the number of steps, which `segments` is here (`probed`).
    """
    separates = jnp.asarray(engine.contains(separator))
    starts = functools.partial(_starts, separates=separates, end_ids=engine.end_ids)
    return probed(engine, keys, sampling, starts, samples=samples, segments=segments)


def _starts(rollouts: Rollouts, *, separates: Bool[Array, " V"], end_ids: Sequence[int]) -> Bool[Array, "P G T"]:
    return step_starts(rollouts.tokens, separates, end_ids)


def step_starts(
    tokens: Int[Array, "P G T"], separates: Bool[Array, " V"], end_ids: Sequence[int]
) -> Bool[Array, "P G T"]:
    """Marks the first token, and those behind one that separates, but no end token there."""
    behind = jnp.pad(separates[tokens[..., :-1]], ((0, 0), (0, 0), (1, 0)))
    is_end = jnp.isin(tokens, jnp.asarray(end_ids, jnp.int32))
    first = jnp.arange(tokens.shape[2])[None, None] == 0
    return first | (behind & ~is_end)
