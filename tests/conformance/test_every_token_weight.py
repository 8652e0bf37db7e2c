"""What every token weight must do, whatever its formula, at assembly or in the step."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.bind import bind
from jaxrl_tok.config.catalogue import STEP_ARRAYS
from jaxrl_tok.token_weights import TOKEN_WEIGHTS
from tests.conformance import fields as data


@pytest.fixture(params=sorted(TOKEN_WEIGHTS), scope="module")
def weight(request):
    return data.Jitted(bind(TOKEN_WEIGHTS, request.param))


def of(weight, seed):
    """Arrays of the stage at which it acts."""
    step = weight.bound.prepare is not None or weight.bound.takes & STEP_ARRAYS
    return data.step(seed) if step else data.assemble(seed)


@pytest.mark.parametrize("seed", range(2))
def test_masked_tokens_get_zero_and_none_is_negative(weight, seed):
    fields = of(weight, seed)
    result = np.asarray(weight(fields))
    assert result.shape == fields["mask"].shape and result.dtype == np.float32
    assert np.isfinite(result).all()
    assert (result[~np.asarray(fields["mask"])] == 0).all()
    assert (result >= 0).all()
    assert result.sum() > 0


@pytest.mark.parametrize("seed", range(2))
def test_values_under_the_mask_do_not_matter(weight, seed):
    fields = of(weight, seed)
    np.testing.assert_array_equal(weight(data.spoil(fields)), weight(fields))


def test_no_gradient_flows_through_a_weight(weight):
    for name, gradient in weight.gradients(of(weight, 0)).items():
        assert (gradient == 0).all(), name


def test_a_batch_without_a_trained_token_gives_zeros(weight):
    fields = of(weight, 0)
    fields |= {"mask": jnp.zeros_like(fields["mask"])}
    np.testing.assert_array_equal(weight(data.spoil(fields)), np.zeros(fields["mask"].shape))


@pytest.mark.slow
def test_jit_changes_nothing(weight):
    """Slow, as operations one by one are compiled one by one."""
    fields = of(weight, 1)
    data.close(weight(fields), weight.run(fields))


@pytest.mark.slow
def test_sharding_over_prompts_changes_nothing(weight):
    fields = of(weight, 1)
    data.close(weight(data.shard(fields)), weight(fields))


def test_second_call_compiles_nothing(weight):
    assert weight.traces_of_a_second_call(of(weight, 0), of(weight, 1)) == 0
