import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.kernels import top_k
from jaxrl_tok.kernels.token_score import block_sizes
from tests.kernels import oracle
from tests.kernels.token_score.cases import CASES, Case, check_values

BACKENDS = ("chunked", "reference")


def evaluate(*arguments):
    """Calls with inputs of the same shapes, types and options share what is compiled."""
    return _evaluate(*(x.program if isinstance(x, Case) else x for x in arguments))


@functools.partial(jax.jit, static_argnums=(3, 4, 5))
def _evaluate(hidden, head, inv_temperature, k, case, backend):
    head = head if case.layout == "dv" else head.T
    options = {"soft_cap": case.soft_cap, "backend": backend, "block": case.block}
    return top_k(hidden, head, k, inv_temperature=inv_temperature, **options)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", [name for name in CASES if "ignored" not in name and "target" not in name])
def test_against_a_sort(name, backend):
    case = CASES[name]
    hidden, head, _, inv_temperature, _ = case.arrays()
    z, _ = oracle.logits(hidden, head, inv_temperature, case.soft_cap)
    k = min(7, case.vocabulary)
    with jax.enable_x64(case.dtype == "float64"):
        got = evaluate(
            jnp.asarray(hidden, case.dtype), jnp.asarray(head, case.dtype), inv_temperature, k, case, backend
        )
    assert (got.ids.dtype, got.logprobs.dtype) == (np.int32, case.accumulation)
    ids = np.asarray(got.ids)
    lse = z.max(axis=1) + np.log(np.exp(z - z.max(axis=1, keepdims=True)).sum(axis=1))
    largest = -np.sort(-z, axis=1)[:, :k] - lse[:, None]
    check_values(case, got.logprobs, largest, z)
    check_values(case, got.logprobs, np.take_along_axis(z, ids, axis=1) - lse[:, None], z)
    assert all(len(set(row)) == k for row in ids)
    assert (np.asarray(got.logprobs) <= 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_lower_ids_come_first_of_equal_ones(backend):
    head = np.zeros((1, 101), np.float32)
    head[0, [40, 70, 71, 100]] = 2
    got = evaluate(np.ones((1, 1), np.float32), head, np.ones(1, np.float32), 8, Case(), backend)
    np.testing.assert_array_equal(got.ids, [[40, 70, 71, 100, 0, 1, 2, 3]])


def test_rows_in_tiles_and_a_k_beyond_the_block(monkeypatch):
    hidden, head, *_ = Case(tokens=26).arrays()
    inputs = jnp.float32(hidden), jnp.float32(head)
    want = top_k(*inputs, 60, backend="reference")
    monkeypatch.setattr(block_sizes, "CHUNKED_LOGITS", 400)
    got = top_k(*inputs, 60, block=16)
    np.testing.assert_array_equal(got.ids, want.ids)
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-6)


def test_no_gradient():
    hidden, head, *_ = Case().arrays()
    gradients = jax.grad(lambda *a: jnp.sum(top_k(*a, 3).logprobs), (0, 1))(jnp.float32(hidden), jnp.float32(head))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), gradients)


@pytest.mark.parametrize("k", [0, 102])
def test_a_k_outside_the_vocabulary_is_named(k):
    with pytest.raises(ConfigError, match=f"k is {k}; expected 1 to 101, the size of the vocabulary"):
        top_k(jnp.ones((2, 16)), jnp.ones((16, 101)), k)
