import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.ratios import segment
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

SEGMENT = jax.jit(segment, static_argnames=("items", "gradient"))


def log_ratios(*values):
    x = jnp.array([values])
    return x, jnp.zeros_like(x)


def test_hand_numbers():
    """Segments {0.2, 0.4}, {1}, a token outside with 0.5, and a segment with a masked token inside."""
    x, old = log_ratios(0.2, 0.4, 1.0, 0.5, 0.6, 9.0, 0.8)
    ids = jnp.array([[0, 0, 1, -1, 2, 2, 2]])
    mask = jnp.array([[True, True, True, True, True, False, True]])
    np.testing.assert_allclose(SEGMENT(x, old, ids, mask), [[0.3, 0.3, 1, 0.5, 0.7, 0, 0.7]], rtol=1e-6)


def test_items_join_what_comes_after_the_last():
    x, old = log_ratios(0.1, 0.2, 0.4, 0.8)
    ids, mask = jnp.array([[0, 1, 2, 3]]), jnp.ones((1, 4), bool)
    np.testing.assert_allclose(SEGMENT(x, old, ids, mask, items=2), [[0.1, 0.2, 0.6, 0.6]], rtol=1e-6)
    with pytest.raises(ConfigError, match="items = 0 must be at least 1"):
        segment(x, old, ids, mask, items=0)


@pytest.mark.parametrize("items", [None, 2])
def test_oracle_with_segments_in_any_order(items):
    rng = np.random.default_rng(0)
    for seed in range(3):
        fields = step(seed)
        ids = rng.integers(-1, 4, fields["mask"].shape).astype(np.int32)
        arrays = [np.asarray(fields[name]) for name in ("logprobs", "old_logprobs")]
        mask = np.asarray(fields["mask"])
        result = SEGMENT(*map(jnp.asarray, (*arrays, ids, mask)), items=items)
        np.testing.assert_allclose(result, oracle.segment(*arrays, ids, mask, items), rtol=1e-5, atol=1e-6)


def test_gradient_is_of_the_token_or_of_the_mean():
    ids, mask = jnp.array([[0, 0, 1]]), jnp.ones((1, 3), bool)
    weights = jnp.array([[1.0, 2.0, 5.0]])

    def grads(gradient):
        return jax.jit(jax.grad(lambda x: jnp.sum(weights * segment(x, x * 0, ids, mask, gradient=gradient))))(
            weights * 0 - 1
        )

    np.testing.assert_allclose(grads("token"), weights)
    np.testing.assert_allclose(grads("mean"), [[1.5, 1.5, 5]], rtol=1e-6)
