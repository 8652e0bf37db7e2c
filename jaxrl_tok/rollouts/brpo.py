"""Thinking that is cut at token budgets, and summaries from each cut: the rollouts of AnytimeReasoner."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Key

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.rollouts.extend import Contains, Engine, extend, fork, from_prompts
from jaxrl_tok.rollouts.generate import as_rollouts
from jaxrl_tok.types import Probes, Sampled, Sampling

# `budget_rewards` are those of the probes, which are the summaries.
SUPPLIES = frozenset({"segment_ids", "budget_rewards", "trained"})
TEXTS = ("close",)


def check(
    group: int,
    max_tokens: int,
    contains: Contains,
    *,
    budgets: list[int] | tuple[int, ...],
    summaries: int,
    summary_tokens: int,
    close: tuple[int, ...],
) -> None:
    """Refuses what does not fit into a run.

    Raises:
      ConfigError: a number out of its range, budgets that do not grow, no room for a summary behind the last of them.
    """
    for name, value in {"summaries": summaries, "summary_tokens": summary_tokens}.items():
        if value < 1:
            raise ConfigError(f"{name} = {value}: expected at least 1")
    if not budgets or budgets[0] < 1 or any(a >= b for a, b in itertools.pairwise(budgets)):
        raise ConfigError(f"budgets = {list(budgets)}: expected numbers of at least 1, each larger than the one before")
    if (needed := budgets[-1] + len(close) + summary_tokens) > max_tokens:
        raise ConfigError(
            f"budgets = {list(budgets)}, summary_tokens = {summary_tokens}: with the {len(close)} tokens of close up "
            f"to {needed} tokens; expected at most rollout.max_tokens = {max_tokens}"
        )


def longest(*, budgets: Sequence[int]) -> int:
    """Returns the most tokens of a completion: those of the last budget."""
    return budgets[-1]


def brpo(
    engine: Engine,
    keys: Key[Array, "P G"],
    sampling: Sampling,
    *,
    budgets: list[int] | tuple[int, ...] = (2000, 4000, 6000, 8000),
    summaries: int = 4,
    summary_tokens: int = 128,
    close: str | list[int] | tuple[int, ...] = (),
) -> Sampled:
    """Samples independent thinking up to the last budget, then A summaries from what of it fits into each budget.

        cut[p,g,m] = min(budgets[m], tokens of the thinking);   summary = thinking[:cut] close | up to summary_tokens
        segment_ids[p,g,t] = first m with t < budgets[m],   -1 behind the thinking

    AnytimeReasoner, Qi et al. 2025, https://arxiv.org/abs/2505.13438, with the 4 budgets, the 4 summaries and the 128
    tokens of its code. The thinking ends before the first `close` that the policy writes itself, or before its end
    token; that is of its last segment, since to end was its choice. What stands behind a `close` is not `trained`. A
    text is recognised by its tokens, as the tokenizer has them by themselves. Thinking that ends early is whole at the
    later budgets, each of which has summaries of its own.

    `close` is text in a recipe and token ids in a call; these are fed and not drawn, and end nothing. Empty, the
    summary just goes on from the cut, end tokens apart: for tasks whose answer is the end of the reasoning.

    Summaries are `probes`: their rewards are `budget_rewards`, and they are not trained. The paper trains them too, by
    `brpo_summary`. As rows of the group they would be G = g (1 + M A), 17 for each thinking with its defaults, each
    with the thinking before it scored again, and g would no longer be the group of the thinking's baseline.

    The thinking runs at once, whatever the number of slots, since the summaries read its keys and values; these run in
    slots.
    """
    assert not isinstance(close, str)
    count, group = keys.shape
    prompt_of = jnp.arange(count * group, dtype=jnp.int32) // group
    flat_keys, whole = jax.tree.map(lambda x: x.reshape(-1), (keys, sampling))
    size, limits = budgets[-1], jnp.asarray(budgets, jnp.int32)
    thinks = dataclasses.replace(whole, limit=jnp.minimum(whole.limit, size))
    requests = from_prompts(engine, prompt_of, flat_keys, thinks)
    done = extend(engine, requests, size, keep=True)
    thought, own = thinking(done.tokens, done.lengths, close, engine.end_ids)
    cuts = jnp.minimum(thought[:, None], limits[None])

    per = len(budgets) * summaries
    row, number = jnp.divmod(jnp.arange(count * group * per, dtype=jnp.int32), per)
    kept = cuts[row, number // summaries]
    below = fork(requests, done, row, kept, number + 1)
    most = len(close) + summary_tokens
    asked = dataclasses.replace(below.sampling, limit=jnp.minimum(whole.limit[row] - kept, most))
    below = dataclasses.replace(below, sampling=asked, forced=jnp.asarray(close, jnp.int32) if close else None)
    found = extend(engine, below, most)

    drawn = jnp.maximum(found.lengths - len(close), 0).reshape(count, -1)
    shape = (count, group, len(budgets), summaries)
    return Sampled(
        as_rollouts(done, sampling),
        {name: x.reshape(count, group, size) for name, x in _fields(own, limits, size).items()},
        done.lengths.reshape(count, -1).sum(1, dtype=jnp.int32) + drawn.sum(1, dtype=jnp.int32),
        Probes(cuts.reshape(shape[:3]), found.tokens.reshape(*shape, -1), found.lengths.reshape(shape)),
    )


def _fields(own: Int[Array, " N"], limits: Int[Array, " M"], size: int) -> dict[str, Array]:
    """What of each row is thinking, and the first budget that contains a token of it."""
    time = jnp.arange(size, dtype=jnp.int32)
    inside = time[None] < own[:, None]
    segments = jnp.sum(time[:, None] >= limits[None], axis=1, dtype=jnp.int32)
    return {"segment_ids": jnp.where(inside, segments[None], -1), "trained": inside}


def thinking(
    tokens: Int[Array, "N T"], lengths: Int[Array, " N"], close: Sequence[int], end_ids: Sequence[int]
) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """Returns how many tokens each row's thinking has, and how many with what closed it: `close`, or an end token."""
    last = jnp.take_along_axis(tokens, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    ended = (lengths > 0) & jnp.isin(last, jnp.asarray(end_ids, jnp.int32))
    thought, own = lengths - ended.astype(lengths.dtype), lengths
    if not close:
        return thought, own
    time = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    closes = time + len(close) <= lengths[:, None]
    for place, token in enumerate(close):
        closes = closes & (jnp.roll(tokens, -place, axis=1) == token)
    first = jnp.argmax(closes, axis=1).astype(lengths.dtype)
    found = jnp.any(closes, axis=1)
    return jnp.where(found, first, thought), jnp.where(found, first + len(close), own)
