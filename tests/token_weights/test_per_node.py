import jax.numpy as jnp
import numpy as np

from jaxrl_tok.token_weights import per_node


def test_a_shared_token_counts_once():
    """Two completions share their first token: three tokens in all, and the weights add up to 3."""
    multiplicity, mask = jnp.array([[[2.0, 1.0], [2.0, 1.0]]]), jnp.ones((1, 2, 2), bool)
    result = per_node(multiplicity, mask)
    assert result.tolist() == [[[0.5, 1], [0.5, 1]]]
    assert result.sum() == 3


def test_padding_and_multiplicities_below_one():
    multiplicity, mask = jnp.array([[[0.0, jnp.nan, 4.0]]]), jnp.array([[[True, False, True]]])
    np.testing.assert_array_equal(per_node(multiplicity, mask), [[[1, 0, 0.25]]])
