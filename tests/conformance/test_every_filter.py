"""What every filter must do, whatever it keeps."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.bind import bind
from jaxrl_tok.filters import FILTERS
from tests.conformance import fields as data


@pytest.fixture(params=sorted(FILTERS), scope="module")
def chosen(request):
    return data.Jitted(bind(FILTERS, request.param))


def test_it_keeps_some_valid_completions_and_no_other(chosen):
    dropped = 0
    for seed in range(4):
        fields = data.assemble(seed)
        result, valid = np.asarray(chosen(fields)), np.asarray(fields["valid"])
        assert result.shape == (data.P, data.G) and result.dtype == bool
        assert not result[~valid].any()
        assert result.any()
        dropped += (valid & ~result).sum()
    assert dropped > 0


def test_values_under_the_mask_do_not_matter(chosen):
    fields = data.assemble(0)
    np.testing.assert_array_equal(chosen(data.spoil(fields)), chosen(fields))


def test_order_of_a_group_does_not_matter(chosen):
    fields = data.assemble(0)
    order = np.random.default_rng(0).permutation(data.G)
    np.testing.assert_array_equal(chosen(data.permuted(fields, order)), chosen(fields)[:, order])


def test_an_empty_batch_keeps_nothing(chosen):
    fields = data.assemble(0) | {"valid": jnp.zeros((data.P, data.G), bool)}
    fields["mask"] = jnp.zeros_like(fields["mask"])
    assert not np.asarray(chosen(fields)).any()


def test_jit_and_sharding_over_prompts_change_nothing(chosen):
    fields = data.assemble(1)
    expected = np.asarray(chosen.run(fields))
    np.testing.assert_array_equal(chosen(fields), expected)
    np.testing.assert_array_equal(chosen(data.shard(fields)), expected)


def test_second_call_compiles_nothing(chosen):
    assert chosen.traces_of_a_second_call(data.assemble(0), data.assemble(1)) == 0
