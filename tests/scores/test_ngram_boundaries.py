import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import ngram_boundaries
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(ngram_boundaries, static_argnames=("n", "as_released"))


def test_hand_numbers():
    mask = jnp.array([[[True, True, False, True, True, True, False]]])  # five tokens: 0, 1, 3, 4, 5
    assert np.flatnonzero(METHOD(mask, n=3)).tolist() == [0, 4, 5]
    assert np.flatnonzero(METHOD(mask, n=2)).tolist() == [0, 3, 5]
    assert np.flatnonzero(METHOD(mask, n=9)).tolist() == [0, 5]


def test_the_released_code_lists_the_last_token_twice_where_a_macro_action_starts_there():
    mask = jnp.arange(6)[None, None] < jnp.array([5, 4, 1, 0])[None, :, None]
    counts = METHOD(mask, n=2, as_released=True)
    np.testing.assert_array_equal(
        counts[0], [[1, 0, 1, 0, 2, 0], [1, 0, 1, 1, 0, 0], [2, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]]
    )


@pytest.mark.parametrize("as_released", [False, True])
def test_oracle(as_released):
    fields = assemble(0)
    expected = oracle.ngrams(np.asarray(fields["mask"]), np.asarray(fields["valid"]), 2, as_released)
    result = METHOD(fields["mask"], fields["valid"], n=2, as_released=as_released)
    np.testing.assert_array_equal(result, expected)


def test_a_length_below_one_is_refused():
    with pytest.raises(ConfigError, match="n = 0"):
        METHOD(jnp.ones((1, 1, 2), bool), n=0)
