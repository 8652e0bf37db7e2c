import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import normalized_attention_entropy


def test_rows_by_hand_whatever_stands_above_the_diagonal():
    """Even attention has 1, a single place 0; a half and two quarters have 1.5 log 2 of log 3."""
    attention = jnp.array([[1, 9, jnp.nan, 9], [0.5, 0.5, 9, 9], [0.5, 0.25, 0.25, jnp.nan], [0, 0, 1, 0]])
    expected = [0, 1, 1.5 * np.log(2) / np.log(3), 0]
    np.testing.assert_allclose(jax.jit(normalized_attention_entropy)(attention), expected, rtol=1e-6, atol=1e-7)


def test_leading_axes_are_kept():
    rng = np.random.default_rng(0)
    attention = np.tril(rng.random((2, 3, 5, 5)))
    attention /= attention.sum(axis=3, keepdims=True)
    result = jax.jit(normalized_attention_entropy)(jnp.asarray(attention, jnp.float32))
    assert result.shape == (2, 3, 5)
    for head in np.ndindex(2, 3):
        for t in range(1, 5):
            row = attention[head][t, : t + 1]
            np.testing.assert_allclose(result[head][t], -(row * np.log(row)).sum() / np.log(t + 1), rtol=1e-5)
