"""What every token weight must do, whatever its formula."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.bind import bind
from jaxrl_tok.token_weights import TOKEN_WEIGHTS
from tests.conformance import fields as data


@pytest.fixture(params=sorted(TOKEN_WEIGHTS), scope="module")
def weight(request):
    return data.Jitted(bind(TOKEN_WEIGHTS, request.param))


@pytest.mark.parametrize("seed", range(3))
def test_masked_tokens_get_zero_and_none_is_negative(weight, seed):
    fields = data.assemble(seed)
    result = np.asarray(weight(fields))
    assert result.dtype == np.float32
    assert (result[~np.asarray(fields["mask"])] == 0).all()
    assert (result >= 0).all()
    assert result.sum() > 0


@pytest.mark.parametrize("seed", range(3))
def test_values_under_the_mask_do_not_matter(weight, seed):
    fields = data.assemble(seed)
    np.testing.assert_array_equal(weight(data.spoil(fields)), weight(fields))


def test_a_batch_without_a_trained_token_gives_zeros(weight):
    fields = data.assemble(0) | {"mask": jnp.zeros((data.P, data.G, data.T), bool)}
    np.testing.assert_array_equal(weight(fields), np.zeros((data.P, data.G, data.T)))


def test_jit_and_sharding_over_prompts_change_nothing(weight):
    fields = data.assemble(1)
    expected = np.asarray(weight.bound(fields))
    np.testing.assert_array_equal(weight(fields), expected)
    np.testing.assert_array_equal(weight(data.shard(fields)), expected)


def test_second_call_compiles_nothing(weight):
    assert weight.traces_of_a_second_call(data.assemble(0), data.assemble(1)) == 0
