"""Divergences with heads in parts, over devices, and without logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.kernels import divergence
from jaxrl_tok.kernels.divergence.common import DIVERGENCES
from tests.kernels import sharded
from tests.kernels.divergence.cases import BACKENDS, Case
from tests.kernels.jaxpr_shapes import offending

CASE = Case(per_row_temperature=True, beta=0.3)


@pytest.fixture(scope="module")
def problem():
    hidden, head, ref_hidden, ref_head, valid, inv_temperature, _ = CASE.arrays()
    rows = np.float32(hidden), np.float32(ref_hidden), valid, inv_temperature
    return tuple(map(jnp.asarray, rows)), (jnp.float32(head), jnp.float32(ref_head))


def loss(rows, heads, *, backend="chunked", **options):
    hidden, ref_hidden, valid, inv_temperature = rows
    options = {"inv_temperature": inv_temperature, "kinds": tuple(DIVERGENCES), "beta": CASE.beta, **options}
    got = divergence(hidden, heads[0], ref_hidden, heads[1], valid, block=16, **BACKENDS[backend], **options)
    return sum(i * jnp.sum(getattr(got, kind)) for i, kind in enumerate(DIVERGENCES, 1)), got


@pytest.fixture(scope="module")
def expected(problem):
    rows, heads = problem

    def f(hidden, head):
        return loss((hidden, *rows[1:]), (head, heads[1]), backend="reference")

    return jax.device_get(jax.jit(jax.value_and_grad(f, (0, 1), has_aux=True))(rows[0], heads[0]))


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
    rows, heads = problem
    if split == "vocab":
        heads = tuple(sharded.padded(head, value) for head, value in zip(heads, (9.0, -9.0), strict=True))
    f = functools.partial(loss, backend=backend)
    got = sharded.run(f, rows, heads, split, where=where, check_vma=check_vma, vocabulary=101)
    (_, results), (d_hidden, d_head) = got
    np.testing.assert_array_equal(d_head[:, 101:], 0)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6)
    jax.tree.map(close, results, expected[0][1])
    jax.tree.map(close, (d_hidden, d_head[:, :101]), expected[1])


TOKENS, SIZE, VOCABULARY = (4, 75), 64, 4099


def trace(backend):
    shapes = [(*TOKENS, SIZE), (SIZE, VOCABULARY), (*TOKENS, SIZE), (SIZE, VOCABULARY)]

    def total(*arrays):
        options = {"kinds": tuple(DIVERGENCES), "head_layout": "dv", "ref_head_layout": "dv", "backend": backend}
        return sum(jnp.sum(x) for x in jax.tree.leaves(divergence(*arrays, **options)))

    arrays = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return jax.make_jaxpr(total)(*arrays), jax.make_jaxpr(jax.grad(total, (0, 1)))(*arrays)


def test_no_logits_in_the_divergences_or_their_gradients():
    for jaxpr in trace("auto"):
        assert offending(jaxpr, TOKENS[0] * TOKENS[1], VOCABULARY) == []


def test_the_reference_has_them_in_both():
    for jaxpr in trace("reference"):
        assert offending(jaxpr, TOKENS[0] * TOKENS[1], VOCABULARY)
