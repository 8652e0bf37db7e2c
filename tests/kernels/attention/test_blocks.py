import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_tok.kernels.attention import star_tree, tree_from_parents
from jaxrl_tok.kernels.attention.blocks import classify, pairs, partners
from jaxrl_tok.kernels.attention.spans import Spans, row_spans, seen, tree_spans
from tests.kernels.attention.cases import random_trie

ROWS, SIZE = 2, 48  # one shape, so that little is compiled

classified = jax.jit(classify, static_argnums=(1, 2))
rows_spans = jax.jit(row_spans, static_argnums=(0, 1, 2, 4))


def spans_of(kind, seed):
    rng = np.random.default_rng(seed)
    if kind == "tries":
        ends = np.stack([tree_from_parents(random_trie(rng, SIZE)).ends for _ in range(ROWS)])
        return tree_spans(jnp.asarray(ends), None, None)[0]
    ids = np.cumsum(rng.random((ROWS, SIZE)) < 0.1, axis=1)
    ids[rng.random((ROWS, SIZE)) < 0.1] = -1
    window = int(rng.choice([1, 5, 20])) if kind == "window" else None
    return rows_spans(ROWS, SIZE, kind != "both ways", jnp.asarray(ids, jnp.int32), window)[0]


def dense(spans):
    return np.asarray(seen(spans, jnp.broadcast_to(jnp.arange(SIZE, dtype=jnp.int32), (ROWS, SIZE))))


PROBLEMS = {
    "kind": st.sampled_from(["tries", "segments", "window", "both ways"]),
    "seed": st.integers(0, 2**32 - 1),
    "block": st.sampled_from([(8, 16), (16, 8)]),
}


@settings(max_examples=30, deadline=None)
@given(**PROBLEMS)
def test_live_blocks_are_those_with_a_visible_pair_and_full_ones_hide_none(kind, seed, block):
    spans = spans_of(kind, seed)
    live, full = classified(spans, SIZE, block)
    cut = dense(spans).reshape(ROWS, SIZE // block[0], block[0], SIZE // block[1], block[1])
    np.testing.assert_array_equal(live, cut.any(axis=(2, 4)))
    np.testing.assert_array_equal(full, cut.all(axis=(2, 4)))


@settings(max_examples=30, deadline=None)
@given(**PROBLEMS)
def test_lists_visit_every_visible_pair_once_and_nothing_hidden(kind, seed, block):
    spans = spans_of(kind, seed)
    live, full = classified(spans, SIZE, block)
    for by_key in (False, True):
        one, all_seen = (np.asarray(x.swapaxes(1, 2) if by_key else x) for x in (live, full))
        entries, count = (np.asarray(x) for x in jax.jit(pairs)(one, all_seen))
        listed = entries[:count]
        # Depth first by row, then by outer block: each outer block's partners are consecutive.
        assert (np.diff(listed // 2) > 0).all()
        visited = np.zeros(one.size, int)
        np.add.at(visited, listed // 2, 1)
        np.testing.assert_array_equal(visited.reshape(one.shape), one)
        np.testing.assert_array_equal(listed % 2, all_seen.reshape(-1)[listed // 2])
        np.testing.assert_array_equal(entries[count:], 0)
        order, most = (np.asarray(x) for x in jax.jit(partners)(one))
        np.testing.assert_array_equal(most, one.sum(axis=2).max(axis=0))
        np.testing.assert_array_equal(np.sort(order, axis=2), np.broadcast_to(np.arange(one.shape[2]), one.shape))
        for b, i in np.ndindex(*one.shape[:2]):
            assert one[b, i, order[b, i, : one[b, i].sum()]].all()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), block=PROBLEMS["block"])
def test_queries_of_a_key_block_are_one_range(seed, block):
    live = np.asarray(classified(spans_of("tries", seed), SIZE, block).live)
    for b, j in np.ndindex(ROWS, live.shape[2]):
        assert (np.diff(np.flatnonzero(live[b, :, j])) == 1).all()


def test_a_window_in_a_tree_loses_no_pair():
    for seed in range(20):
        ends, positions = tree_from_parents(random_trie(np.random.default_rng(seed), SIZE))
        rows = [jnp.broadcast_to(jnp.asarray(x), (ROWS, SIZE)) for x in (ends, positions)]
        spans, _ = tree_spans(*rows, 6)
        live, full = classified(spans, SIZE, (8, 8))
        cut = dense(spans).reshape(ROWS, 6, 8, 6, 8)
        assert (np.asarray(live) >= cut.any(axis=(2, 4))).all()
        np.testing.assert_array_equal(full, cut.all(axis=(2, 4)))


def test_a_shared_prompt_saves_blocks():
    """A prompt of 4096 and 8 branches of 1536: 0.364x the tokens of 8 rows, at most 0.6x their blocks."""
    prompt, branch = 4096, 1536
    packed, row = prompt + 8 * branch, prompt + branch
    ends, _ = star_tree(jnp.array([prompt]), jnp.full((1, 8), branch), packed)
    tree, _ = tree_spans(ends, None, None)
    alone, _ = row_spans(1, row, True, None, None)
    assert packed / (8 * row) < 0.37

    def visited(spans: Spans, size: int, block: tuple[int, int]) -> int:
        return int(classified(spans, size, block).live.sum())

    for block in ((128, 128), (512, 512)):
        assert visited(tree, packed, block) <= 0.6 * 8 * visited(alone, row, block)
    # 8 blocks of prompt, causal: 36. A branch has 3: each sees 8 of the prompt, and causally its own: 24 + 6.
    assert visited(tree, packed, (512, 512)) == 36 + 8 * (3 * 8 + 6)
    assert visited(alone, row, (512, 512)) == 66
