"""What every ratio, clip and loss must do, whatever its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import CLIPS
from jaxrl_tok.config.bind import bind
from jaxrl_tok.losses import LOSSES
from jaxrl_tok.ratios import RATIOS
from tests.conformance import fields as data

SLOTS = {"ratio": RATIOS, "clip": CLIPS, "loss": LOSSES}
METHODS = [(slot, name) for slot, methods in SLOTS.items() for name in sorted(methods)]
CARRIERS = ("logprobs", "log_ratio")  # the arrays through which a step's gradient flows


@pytest.fixture(params=METHODS, ids=".".join, scope="module")
def method(request):
    slot, name = request.param
    return data.Jitted(bind(SLOTS[slot], name))


@pytest.fixture(params=[m for m in METHODS if m[0] != "clip"], ids=".".join, scope="module")
def term(request):
    slot, name = request.param
    return data.Jitted(bind(SLOTS[slot], name))


@pytest.mark.parametrize("seed", range(3))
def test_masked_tokens_get_zero_and_others_something(term, seed):
    fields = data.step(seed)
    result = np.asarray(term(fields))
    assert result.shape == (data.B, data.T)
    assert result.dtype == np.float32
    assert (result[~np.asarray(fields["mask"])] == 0).all()
    assert (result[np.asarray(fields["mask"])] != 0).all()


def test_values_under_the_mask_do_not_matter(term):
    fields = data.step(0)
    spoilt = data.spoil(fields)
    np.testing.assert_array_equal(term(spoilt), term(fields))
    for name in set(CARRIERS) & set(term.reads):
        grads = term.gradient(spoilt, name)
        np.testing.assert_array_equal(grads, term.gradient(fields, name))
        assert (grads[~np.asarray(fields["mask"])] == 0).all()
        assert np.isfinite(grads).all()
        assert (grads != 0).any()


def test_extreme_log_probs_stay_finite(term):
    fields = data.step(0)
    far = jnp.full((data.B, data.T), -60.0)
    for name in ("logprobs", "old_logprobs"):
        assert np.isfinite(np.asarray(term(fields | {name: far}))).all()


def test_jit_and_sharding_over_rows_change_nothing(method):
    fields = data.step(1)
    expected = method.bound(fields)
    data.close(method(fields), expected)
    data.close(method(data.shard(fields)), expected)


def test_a_row_depends_on_itself_only(method):
    fields = data.step(1)
    part = {name: x[4:8] for name, x in fields.items()}
    data.close(method(part), jax.tree.map(lambda x: x[4:8], method(fields)))


def test_second_call_compiles_nothing(method):
    assert method.traces_of_a_second_call(data.step(0), data.step(1)) == 0
