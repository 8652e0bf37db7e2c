"""Scoring with a head in parts, over devices, gives what it gives whole."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import kept_logprobs, score_many, token_score, top_k
from jaxrl_tok.kernels.token_score.statistics import STATISTICS
from tests.kernels import sharded
from tests.kernels.token_score.cases import BACKENDS, Case

# The same sums in another order.
CLOSE = {"rtol": 2e-6, "atol": 1e-5}


@pytest.fixture(scope="module")
def problem():
    hidden, head, targets, inv_temperature, _ = Case(per_row_temperature=True).arrays()
    many = np.random.default_rng(1).integers(-1, 101, (24, 3)).astype(np.int32)
    rows = map(jnp.asarray, (np.float32(hidden), targets, many, inv_temperature))
    return tuple(rows), (jnp.float32(head),)


def every_score(rows, heads, *, backend="chunked", block=16, **options):
    """Gives a loss and the results of all of scoring."""
    (hidden, targets, many, inv_temperature), (head,) = rows, heads
    options = {"inv_temperature": inv_temperature, "block": block, **options}
    with_backend = {**options, **BACKENDS[backend]}
    scores = token_score(hidden, head, targets, statistics=tuple(STATISTICS), **with_backend)
    several = score_many(hidden, head, many, **with_backend)
    kept = kept_logprobs(hidden, head, targets, jnp.full(targets.shape, -4.0), **with_backend)
    best = top_k(hidden, head, 30, backend="reference" if backend == "reference" else "chunked", **options)
    loss = jnp.sum(scores.logprobs + 0.3 * scores.entropy + 0.1 * scores.lse + kept)
    return loss + jnp.sum(several.logprobs) + jnp.sum(several.entropy), (scores, several, kept, best)


def whole(rows, heads, **options):
    def loss(first_rows, first_head):
        return every_score((first_rows, *rows[1:]), (first_head,), **options)

    return jax.device_get(jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(rows[0], heads[0]))


@pytest.fixture(scope="module")
def expected(problem):
    return whole(*problem, backend="reference")


def check(got, want):
    """Asserts that results and gradients agree, and that the padding of the head got none."""
    (loss, results), (d_hidden, d_head) = got
    columns = want[1][1].shape[1]
    np.testing.assert_array_equal(d_head[:, columns:], 0)
    got = (loss, results), (d_hidden, d_head[:, :columns])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got[0][1], want[0][1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **CLOSE), got[1], want[1])
    np.testing.assert_allclose(got[0][0], want[0][0], rtol=1e-6)


# The reference's part in this is its forward and backward, which are the same everywhere.
# The definition has no code of its own for heads in parts, so its turn is in the slow suite.
WAYS = [
    pytest.param(*way, backend, marks=[] if backend == "chunked" else pytest.mark.slow)
    for backend in BACKENDS
    for way in (("inside", True), ("inside", False), ("outside", True))
]
WAYS = [way for way in WAYS if way[2] != "reference" or way[:2] == ("inside", True)]


@pytest.mark.parametrize(("where", "check_vma", "backend"), WAYS)
@pytest.mark.parametrize("split", ["vocab", "fsdp"])
def test_over_four_devices(split, where, check_vma, backend, problem, expected):
    rows, (head,) = problem
    f = functools.partial(every_score, backend=backend)
    heads = (sharded.padded(head),) if split == "vocab" else (head,)
    options = {"where": where, "check_vma": check_vma, "vocabulary": 101}
    check(sharded.run(f, rows, heads, split, **options), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_padded_head_on_one_device(backend, problem, expected):
    rows, (head,) = problem
    check(whole(rows, (sharded.padded(head, 50.0),), backend=backend, vocabulary=101), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_shard_without_any_token(backend, problem):
    # Five tokens on four devices of two columns each: the last device has none.
    (hidden, _, _, inv_temperature), (head,) = problem
    targets = jnp.arange(24, dtype=jnp.int32) % 5
    rows = hidden, targets, jnp.stack([targets] * 3, axis=1), inv_temperature
    five = head[:, :5]

    def f(rows, heads, **options):
        hidden, targets, _, inv_temperature = rows
        options = {"inv_temperature": inv_temperature, **options, **BACKENDS[backend]}
        scores = token_score(hidden, heads[0], targets, statistics=tuple(STATISTICS), **options)
        return jnp.sum(scores.logprobs + scores.entropy), scores

    want = jax.device_get(
        jax.jit(jax.value_and_grad(lambda h, w: f((h, *rows[1:]), (w,)), (0, 1), has_aux=True))(hidden, five)
    )
    padded = (jnp.pad(five, ((0, 0), (0, 3)), constant_values=9.0),)
    check(sharded.run(f, rows, padded, "vocab", vocabulary=5), want)


def test_equal_logits_on_several_devices_give_the_lowest_id():
    head = np.zeros((1, 104), np.float32)
    head[0, [40, 70, 71, 103]] = 2  # on the second, the third twice, and the last device
    hidden, targets = jnp.ones((1, 1)), jnp.asarray([71], jnp.int32)

    def f(hidden, head):
        scores = token_score(hidden, head, targets, statistics=("argmax", "top2_gap", "rank"), vocab_axis="shards")
        return scores.argmax, scores.top2_gap, scores.rank, top_k(hidden, head, 5, vocab_axis="shards").ids

    specs = {"in_specs": (P(), P(None, "shards")), "out_specs": P()}
    got = jax.jit(jax.shard_map(f, mesh=sharded.mesh(), **specs))(hidden, jnp.asarray(head))
    argmax, gap, rank, ids = jax.device_get(got)
    assert (argmax[0], gap[0], rank[0]) == (40, 0, 1)
    np.testing.assert_array_equal(ids, [[40, 70, 71, 103, 0]])


def test_hidden_states_that_differ_between_the_vocabulary_shards_of_a_gather(problem, expected):
    # Rows split over the same axis, as in sequence parallelism: gathered before, and their gradients scattered.
    (hidden, targets, _, inv_temperature), (head,) = problem

    def loss(hidden, head):
        everyone = jax.lax.all_gather(hidden, "shards", axis=0, tiled=True)
        options = {"inv_temperature": inv_temperature, "vocab_axis": "shards", "vocabulary": 101}
        return jnp.sum(token_score(everyone, head, targets, **options).logprobs)

    specs = {"in_specs": (P("shards"), P(None, "shards")), "out_specs": (P("shards"), P(None, "shards"))}
    f = jax.shard_map(jax.grad(loss, (0, 1)), mesh=sharded.mesh(), **specs)
    got = jax.device_get(jax.jit(f)(hidden, sharded.padded(head)))
    want = jax.grad(lambda h, w: jnp.sum(token_score(h, w, targets, inv_temperature=inv_temperature).logprobs), (0, 1))(
        hidden, head
    )
    np.testing.assert_allclose(got[0], want[0], **CLOSE)
    np.testing.assert_allclose(got[1][:, :101], want[1], **CLOSE)


def program(split, rows, size, vocabulary):
    """Gives the compiled text of value and gradients of scoring on four devices."""

    def loss(hidden, head, targets):
        axis = {"vocab_axis": "shards"} if split == "vocab" else {"fsdp_axis": "shards"}
        scores = token_score(hidden, head, targets, block=512, **axis)
        total = jnp.sum(scores.logprobs + scores.entropy)
        return total if split == "vocab" else jax.lax.psum(total, "shards")

    row, head = (P(), P(None, "shards")) if split == "vocab" else (P("shards"), P("shards", None))
    specs = {"in_specs": (row, head, row), "out_specs": (P(), (row, head))}
    f = jax.jit(jax.shard_map(jax.value_and_grad(loss, (0, 1)), mesh=sharded.mesh(), **specs))
    shapes = ((rows, size), jnp.float32), ((size, vocabulary), jnp.float32), ((rows,), jnp.int32)
    return f.lower(*(jax.ShapeDtypeStruct(*one) for one in shapes)).compile().as_text()


def collectives(text, name):
    """Gives the largest number of elements in a result of each collective of a name."""
    found = re.findall(rf"= \(?(\w+\[[\d,]*\]).*? {name}(?:-start)?\(", text)
    return [int(np.prod([int(n) for n in re.findall(r"\d+", shape.split("[")[1])])) for shape in found]


def test_a_split_vocabulary_moves_rows_and_never_the_head():
    text = program("vocab", 64, 32, 4096)
    assert collectives(text, "all-gather") == []
    sizes = collectives(text, "all-reduce")
    # Maxima, the stacked sums, and the gradient of hidden.
    assert sorted(sizes) == [64, 3 * 64, 64 * 32]


def test_a_gathered_head_is_never_whole():
    size, vocabulary = 32, 4096
    text = program("fsdp", 256, size, vocabulary)
    gathered = collectives(text, "all-gather")
    assert gathered
    assert max(gathered) == size * 512
    assert max(collectives(text, "reduce-scatter") or collectives(text, "all-to-all") or [0]) <= size * 512
    assert f"f32[{size},{vocabulary}]" not in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_axis": "shards"}, "vocab_axis is 'shards'; expected a mesh axis of the shard_map around the call"),
        ({"fsdp_axis": "data"}, "fsdp_axis is 'data'; expected a mesh axis"),
        ({"vocabulary": 6}, "vocabulary is 6; expected 1 to 5, the columns of the whole head"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        token_score(jnp.ones((2, 3)), jnp.ones((3, 5)), jnp.zeros(2, jnp.int32), **options)
