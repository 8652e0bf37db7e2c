import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import flow_throughput
from tests.oracles import weights as oracle

METHOD = jax.jit(flow_throughput)


def causal(rng, n):
    """Rows that add up to 1 over what stands before them, themselves included."""
    attention = np.tril(rng.random((n, n)) ** 3)
    return attention / attention.sum(axis=1, keepdims=True)


def test_oracle_for_a_batch():
    rng = np.random.default_rng(0)
    attention = np.stack([causal(rng, 9) for _ in range(2)])
    question, answer = np.arange(9) < np.array([[3], [4]]), np.arange(9) >= np.array([[7], [8]])
    result = METHOD(*map(jnp.asarray, (attention.astype(np.float32), question, answer)))
    for b in range(2):
        expected = oracle.flow(attention[b], question[b], answer[b])
        np.testing.assert_allclose(np.stack([x[b] for x in result]), expected, rtol=1e-5)


def test_a_chain_by_hand():
    """0 and 1 ask, 3 answers and looks at 2 only, and 2 at both, so that 2 carries all, 0 and 1 a half each."""
    attention = jnp.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.25, 0.5, 0.25, 0], [0, 0, 1, 0]])
    result = METHOD(attention, jnp.array([True, True, False, False]), jnp.array([False, False, False, True]))
    np.testing.assert_allclose(result.reach, [0.25, 0.5, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(result.inflow, [0.5, 0.5, 1, 1], rtol=1e-6)
    np.testing.assert_allclose(result.throughput, [1, 1, 2, 1], rtol=1e-6)


def test_what_cannot_reach_the_answer_keeps_its_share():
    """Nothing looks at token 0, and the prompt is padded by a row and column of zeros."""
    attention = jnp.zeros((4, 4)).at[3, 2].set(0.6)
    result = METHOD(attention, jnp.array([False, True, True, False]), jnp.array([False, False, False, True]))
    np.testing.assert_allclose(result.throughput, [0, 0.5, 1, 0.5], rtol=1e-6)


def test_no_question_and_no_answer_are_finite():
    none = jnp.zeros(3, bool)
    result = METHOD(jnp.tril(jnp.ones((3, 3))), none, none)
    assert np.isfinite(np.stack(result)).all()
