"""Completions, and others that go on from before one of their most uncertain tokens: the rollouts of CURE."""

import dataclasses
import re

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import FORK, Contains, Engine, extend, fork, from_prompts
from jaxrl_tok.rollouts.generate import as_rollouts
from jaxrl_tok.rollouts.joined import beside, spliced
from jaxrl_tok.types import Sampled, Sampling

SUPPLIES = frozenset({"trained"})

# The place is chosen with a key that is folded from a number that neither tokens nor branches have.
PLACE = FORK - 1


def check(
    group: int,
    max_tokens: int,
    contains: Contains,
    *,
    samples: int,
    branches: int,
    candidates: int,
    min_characters: int,
) -> None:
    """Refuses what does not fit into a run.

    Raises:
      ConfigError: a number out of its range, a group that is not all of the completions, tokens that are all shorter.
    """
    for name, value, least in (
        ("samples", samples, 1),
        ("branches", branches, 0),
        ("candidates", candidates, 1),
        ("min_characters", min_characters, 1),
    ):
        if value < least:
            raise ConfigError(f"{name} = {value}: expected at least {least}")
    if group != samples * (1 + branches):
        raise ConfigError(
            f"samples = {samples}, branches = {branches}: {samples * (1 + branches)} completions; expected as many as "
            f"rollout.group = {group}"
        )
    if not contains(_characters(min_characters)).any():
        raise ConfigError(f"min_characters = {min_characters}: expected at most as many as the longest token has")


def cure(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    samples: int = 4,
    branches: int = 3,
    candidates: int = 20,
    min_characters: int = 2,
) -> Sampled:
    """Samples independent completions, and as many more from before one critical token of each.

        G = samples (1 + branches);   completion samples + i branches + j goes on from the first c[i] tokens of i
        c[i] uniform over the `candidates` places of completion i with the highest entropy

    CURE, Li et al. 2025, https://arxiv.org/abs/2508.11016, with the 4, 3 and 20 of its code. The first token is no
    candidate, nor one whose text without white space around it has fewer than `min_characters` characters: so no
    special token is. Where there is no candidate the branches start at the prompt. Entropies are the sampler's, of what
    it drew from; the code takes the trainer's, which are those where no token is filtered out. It also cuts what is
    kept to the prompts' limit, and here it counts in the completion's limit.

    A branch trains its own tokens alone: `trained` is false on those that it keeps. Branches have keys of their own;
    the first completions are those that independent sampling gives. They run at once, whatever the number of slots,
    since the branches read their keys and values. Without branches it is plain sampling.
    """
    count = keys.shape[0]
    rows = jnp.arange(count * samples, dtype=jnp.int32)
    own = keys[:, :samples].reshape(-1)
    requests = from_prompts(engine, rows // samples, own, jax.tree.map(lambda x: x[:, :samples].reshape(-1), sampling))
    done = extend(engine, requests, engine.max_tokens, keep=True, entropy=True)
    time = jnp.arange(engine.max_tokens, dtype=jnp.int32)[None]
    enough = jnp.asarray(engine.contains(_characters(min_characters)))[done.tokens]
    allowed = (time > 0) & (time < done.lengths[:, None]) & enough
    assert done.entropies is not None
    critical = critical_places(own, done.entropies, allowed, candidates)

    row, branch = jnp.divmod(jnp.arange(len(rows) * branches, dtype=jnp.int32), max(branches, 1))
    kept = critical[row]
    parts, tokens = [done], done.lengths
    if branches:
        below = extend(engine, fork(requests, done, row, kept, branch + 1), engine.max_tokens)
        parts.append(spliced(done, row, kept, below))
        tokens = jnp.concatenate([tokens.reshape(count, -1), below.lengths.reshape(count, -1)], axis=1)
    heat = sampling.temperature[:, :samples]
    heat = jnp.concatenate([heat, jnp.repeat(heat, branches, axis=1)], axis=1)
    before = jnp.concatenate([jnp.zeros((count, samples), jnp.int32), kept.reshape(count, -1)], axis=1)
    return Sampled(
        as_rollouts(beside(parts, count), dataclasses.replace(sampling, temperature=heat)),
        {"trained": time[None] >= before[:, :, None]},
        tokens.reshape(count, -1).sum(1, dtype=jnp.int32),
    )


def critical_places(
    keys: Key[Array, " N"], entropies: Float[Array, "N T"], allowed: Bool[Array, "N T"], candidates: int
) -> Int[Array, " N"]:
    """Returns one of the places with the highest entropies of each row, all as likely; 0 where none is allowed.

    Of equal entropies the first ones are candidates.
    """
    size = min(candidates, entropies.shape[1])
    _, places = jax.lax.top_k(jnp.where(allowed, entropies, -1), size)
    found = jnp.minimum(jnp.sum(allowed, axis=1, dtype=jnp.int32), size)

    def chosen(key: Array, places: Array, found: Array) -> Array:
        return places[jax.random.randint(jax.random.fold_in(key, PLACE), (), 0, jnp.maximum(found, 1))]

    return jnp.where(found > 0, jax.vmap(chosen)(keys, places, found), 0)


def _characters(count: int) -> re.Pattern[str]:
    """Matches text that has so many characters when white space around it is taken off."""
    return re.compile(r"\S" if count == 1 else rf"\S.{{{count - 2},}}\S", re.DOTALL)
