"""Stop strings: a table that reads tokens as their bytes, its step inside `jit`, and the cut of the text."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Integer

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.types import Leaf, pytree


@pytree
class StopTable:
    """An automaton over tokens. It starts in state 0, and the last state, which it never leaves, is a match."""

    transitions: Leaf  # i16[S, V], the state after a token


def stop_table(stops: Sequence[str | bytes], token_bytes: Sequence[bytes]) -> StopTable | None:
    """Returns the table that finds the first of several strings in the bytes of a stream of tokens.

        transitions[s, v] = the state after the bytes of token v, read from state s

    A state is the longest end of what was read that begins a stop string and is none yet (Aho and Corasick 1975,
    https://doi.org/10.1145/360825.360855). Bytes, not characters, because a token may end within a character; and
    so a match may start in one token, end in another, and have text behind it in the same token. S is 1 + the number
    of different beginnings, so at most 1 + the stop strings' bytes: 30 of them and V = 150 000 make 9 MB.

    A token without bytes (a special one, padding) leaves the state as it is: `decode` leaves it out of the text,
    in which what stands around it is adjacent.

    Args:
        stops: what ends a completion, text or UTF-8; a string that contains another one never gets to matter. None of
            them: no table.
        token_bytes: of each id, as `io.tokenizer.token_bytes` gives them.

    Raises:
        ConfigError: a stop string is empty, they have more than 32 767 bytes in all, or `stops` is one string and no
            sequence of them.
    """
    patterns = _patterns(stops)
    if not patterns:
        return None
    # What contains another pattern is found when that one is. Without it, no pattern ends within a beginning of one.
    patterns = {p for p in patterns if not any(q in p for q in patterns if q != p)}
    size, most = sum(map(len, patterns)), np.iinfo(np.int16).max
    if size > most:
        raise ConfigError(f"stop strings: {size} bytes in all, but the states are 16-bit numbers; give at most {most}")
    return StopTable(_over_tokens(_byte_steps(patterns), token_bytes))


def advance(
    table: StopTable, state: Integer[Array, " B"], tokens: Int[Array, " B"]
) -> tuple[Integer[Array, " B"], Bool[Array, " B"]]:
    """Reads one token a row; returns the new states, and whether a stop string has been completed by now.

    Once true it stays true until the caller sets the row's state to 0, where a new completion starts (or, if a match
    should count from a least number of tokens on, after each token before). An id beyond the table has no bytes.
    """
    transitions = jnp.asarray(table.transitions)
    states, vocab = transitions.shape
    after = transitions[state, jnp.minimum(tokens, vocab - 1)].astype(state.dtype)
    after = jnp.where(tokens < vocab, after, state)
    return after, after == states - 1


def cut(text: str, stops: Sequence[str | bytes]) -> str:
    """Returns the text before the first stop string, all of it where there is none.

    The first is the one that is complete first, which is the one that `advance` ends a completion at; of two that
    end together the longer. So the result does not depend on how the text fell into tokens, while the first to
    *start* may not have been complete where sampling stopped.

    Raises:
        ConfigError: as `stop_table`.
    """
    data = text.encode()
    found = [(data.find(p) + len(p), data.find(p)) for p in _patterns(stops) if p in data]
    return data[: min(found)[1]].decode(errors="ignore") if found else text


def _patterns(stops: Sequence[str | bytes]) -> set[bytes]:
    if isinstance(stops, str | bytes):
        raise ConfigError(f"stop strings: {stops!r} is one string; give a list, [{stops!r}]")
    patterns = {stop.encode() if isinstance(stop, str) else stop for stop in stops}
    if b"" in patterns:
        raise ConfigError(f"stop strings: {list(stops)!r} has an empty one, which would match at once")
    return patterns


def _byte_steps(patterns: set[bytes]) -> np.ndarray:
    """Returns the state after each byte, i32[S, 256], of patterns none of which contains another."""
    beginnings = sorted({p[:end] for p in patterns for end in range(len(p))}, key=lambda p: (len(p), p))
    accept = len(beginnings)
    states = {p: i for i, p in enumerate(beginnings)} | dict.fromkeys(patterns, accept)
    steps = np.zeros((accept + 1, 256), np.int32)
    steps[accept] = accept
    children: list[list[bytes]] = [[] for _ in beginnings]
    for p in states:
        if p:
            children[states[p[:-1]]].append(p)
    fallbacks = [0] * accept  # the state of the longest beginning that each one ends with, itself excepted
    for state, p in enumerate(beginnings):  # the shorter first: a fallback is shorter
        if len(p) > 1:
            fallbacks[state] = int(steps[fallbacks[states[p[:-1]]], p[-1]])
        steps[state] = steps[fallbacks[state]]
        for child in children[state]:
            steps[state, child[-1]] = states[child]
    return steps


def _over_tokens(steps: np.ndarray, token_bytes: Sequence[bytes]) -> np.ndarray:
    """Runs the bytes of every token from every state, the n-th bytes of all tokens that have one at a time."""
    lengths = np.array([len(piece) for piece in token_bytes], np.int64)
    data = np.frombuffer(b"".join(token_bytes), np.uint8)
    order = np.argsort(-lengths, kind="stable")
    starts = (np.cumsum(lengths) - lengths)[order]
    after = np.repeat(np.arange(len(steps), dtype=np.int32)[:, None], len(token_bytes), axis=1)
    for n in range(lengths.max(initial=0)):
        longer = np.count_nonzero(lengths > n)
        after[:, :longer] = steps[after[:, :longer], data[starts[:longer] + n]]
    transitions = np.empty(after.shape, np.int16)
    transitions[:, order] = after
    return transitions
