"""A stream of tokens stops where `find` first sees a stop string in the text so far."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.io.tokenizer import characters, token_bytes
from jaxrl_tok.rollouts.stop_strings import advance, cut, stop_table

STEP = jax.jit(advance)


def first_done(table, streams):
    """Where each of many streams [B, T] is first done, T where it never is; walks the table in NumPy."""
    transitions = np.asarray(table.transitions)
    state = np.zeros(len(streams), int)
    first = np.full(len(streams), streams.shape[1])
    for t in range(streams.shape[1]):
        state = transitions[state, streams[:, t]]
        first = np.where((state == len(transitions) - 1) & (first > t), t, first)
    return first


def first_found(stops, token_bytes, stream):
    """The first token after which one of the stop strings is in the bytes so far."""
    text = b""
    for t, token in enumerate(stream):
        text += token_bytes[token]
        if any(text.find(stop) >= 0 for stop in stops):
            return t
    return len(stream)


def random_pieces(rng, alphabet, count, longest):
    return [bytes(rng.choice(list(alphabet), rng.integers(0, longest + 1)).tolist()) for _ in range(count)]


@pytest.mark.parametrize("seed", range(60))
def test_stops_where_find_does(seed):
    """Few letters, so that beginnings of patterns fail late, overlap, and lie within other patterns."""
    rng = np.random.default_rng(seed)
    alphabet = b"ab" if seed % 2 else b"abc"
    token_bytes = random_pieces(rng, alphabet, 12, 4)
    stops = [p for p in random_pieces(rng, alphabet, rng.integers(1, 6), 7) if p] or [b"abab"]
    streams = rng.integers(0, len(token_bytes), (80, 12))
    expected = [first_found(stops, token_bytes, stream) for stream in streams]
    np.testing.assert_array_equal(first_done(stop_table(stops, token_bytes), streams), expected)


def test_the_random_streams_see_both_ends():
    """The test above would pass with streams that all stop at once, or never."""
    rng = np.random.default_rng(3)
    token_bytes = random_pieces(rng, b"ab", 12, 4)
    found = [first_found([b"abbaba"], token_bytes, s) for s in rng.integers(0, 12, (80, 12))]
    assert 0 < np.mean(np.array(found) < 12) < 1 and len(set(found)) > 5


@pytest.mark.parametrize("seed", range(20))
def test_text_stops_and_is_cut_alike_however_it_falls_into_tokens(seed):
    """Characters of one to four bytes, in tokens of one to three bytes, so that most tokens end within one."""
    rng = np.random.default_rng(seed)
    text = "".join(rng.choice(list("aé漢🙂"), 30))
    stops = ["".join(rng.choice(list("aé漢🙂"), rng.integers(2, 4))) for _ in range(3)]
    data = text.encode()
    ends = np.cumsum(rng.integers(1, 4, len(data)))
    pieces = [data[a:b] for a, b in itertools.pairwise([0, *ends[ends < len(data)], len(data)])]
    at = int(first_done(stop_table(stops, pieces), np.arange(len(pieces))[None])[0])
    sampled = b"".join(pieces[: at + 1]).decode(errors="ignore")
    # By hand: let the text grow by a character, until it ends with a stop string; of several, the longest goes.
    expected = text
    for end in range(len(text) + 1):
        if ending := [stop for stop in stops if text[:end].endswith(stop)]:
            expected = text[: end - max(map(len, ending))]
            break
    assert cut(sampled, stops) == cut(text, stops) == expected
    assert (at < len(pieces)) == (expected != text)


def test_every_part_of_a_token_counts():
    tokens = [b"x", b"a\n", b"\nb", b"q\n\nq", b"\n", b""]
    table = stop_table(["\n\n"], tokens)
    assert table.transitions.dtype == np.int16 and table.transitions.shape == (3, 6)
    #                             start  after one newline  done
    np.testing.assert_array_equal(table.transitions[0], [0, 1, 0, 2, 1, 0])
    np.testing.assert_array_equal(table.transitions[1], [0, 1, 2, 2, 2, 1])
    np.testing.assert_array_equal(table.transitions[2], [2] * 6)


def test_what_contains_another_string_adds_no_state():
    tokens = [bytes([b]) for b in range(256)]
    alone, both = stop_table(["stop"], tokens), stop_table(["stop", "a stop sign", "stopped", b"stop"], tokens)
    np.testing.assert_array_equal(alone.transitions, both.transitions)


def test_a_string_longer_than_anything_never_matches():
    table = stop_table(["ab" * 500], [b"ab", b"a", b""])
    assert table.transitions.shape == (1001, 3)
    assert first_done(table, np.zeros((1, 499), int)) == 499
    assert first_done(table, np.zeros((1, 500), int)) == 499  # the 500th token


def test_special_tokens_leave_the_text_around_them_adjacent():
    chars = characters("ab")  # 0 and 1 are special
    table = stop_table(["ab"], token_bytes(chars))
    stream = [2, 1, 0, 3]
    assert chars.decode(stream) == "ab"
    assert first_done(table, np.array([stream])) == 3


def test_advance_in_a_compiled_loop():
    table = stop_table(["bb", "abc"], [b"a", b"b", b"", b"c"])
    streams = jnp.array([[0, 1, 3, 0], [1, 2, 1, 3], [0, 1, 0, 1], [1, 9, 1, 0]], jnp.int32)  # 9: beyond the table

    @jax.jit
    def run(table, streams):
        return jax.lax.scan(lambda state, tokens: advance(table, state, tokens), jnp.zeros(4, jnp.int16), streams.T)

    state, done = run(table, streams)
    expected = [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1]]
    np.testing.assert_array_equal(done.T, np.array(expected, bool))
    assert state.dtype == jnp.int16
    again, done = STEP(table, jnp.zeros(4, jnp.int32), streams[:, 0])
    assert again.dtype == jnp.int32 and not done.any()


def test_no_strings_no_table():
    assert stop_table([], [b"a"]) is None
    assert cut("text", []) == "text"


@pytest.mark.parametrize(
    ("stops", "message"),
    [(["a", ""], "has an empty one"), ([b""], "has an empty one"), ("ab", "'ab' is one string; give a list")],
)
def test_strings_that_cannot_be_used(stops, message):
    with pytest.raises(ConfigError, match=message):
        stop_table(stops, [b"a"])
    with pytest.raises(ConfigError, match=message):
        cut("text", stops)


def test_more_states_than_16_bits_number():
    with pytest.raises(ConfigError, match="32768 bytes in all, but the states are 16-bit numbers; give at most 32767"):
        stop_table(["a" * 32_767, "b", "ab"], [b"a"])


# Text, stop strings, what is left.
CUTS = [
    ("12;9;17;3", [";"], "12"),
    ("no match", ["x"], "no match"),
    ("stop", ["stop"], ""),
    ("a b c", ["c", "b"], "a "),
    ("abcd", ["abcd", "c"], "ab"),  # complete first, though the other starts first and is in the last token's text
    ("xaab", ["ab", "aab"], "x"),  # both end at once
    ("é漢é", ["漢"], "é"),
    ("é漢é", [b"\xbc\xa2"], "é"),  # from within a character, which goes too
]


@pytest.mark.parametrize(("text", "stops", "left"), CUTS)
def test_cut(text, stops, left):
    assert cut(text, stops) == left
    assert cut(text, stops[::-1]) == left


def test_a_large_vocabulary_takes_about_a_second():
    """150 000 tokens of 1 to 12 bytes and one of 512, 30 states."""
    rng = np.random.default_rng(0)
    data = rng.integers(97, 123, 13 * 150_000).astype(np.uint8).tobytes()
    ends = np.cumsum(rng.integers(1, 13, 150_000))
    pieces = [data[a:b] for a, b in itertools.pairwise([0, *ends])] + [b" " * 512]
    start = time.process_time()
    table = stop_table(["</answer>", "\n\nQuestion:", "<|im_end|>"], pieces)
    assert time.process_time() - start < 2  # takes 0.2 s
    assert 25 <= len(table.transitions) <= 32
