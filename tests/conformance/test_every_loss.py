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
# Arrays through which a step's gradient flows; all others are constants of the step.
CARRIERS = {"logprobs", "entropy", "log_ratio", "values", "last_token_score", "proxy_rewards", "expert_balance"}
# Losses of some trained tokens only, or 0 at some of them by their formula.
PARTIAL = {
    "adaptive_entropy_bonus": "0 while the entropy is above its target, and by its first coefficient",
    "archer_kl": "only tokens of low entropy",
    "clip_cov": "0 at the tokens that are detached",
    "functional_anchor": "only functional tokens",
    "laser_mse": "only finished completions",
}
# Without a gradient from its first state on.
SILENT = {"adaptive_entropy_bonus"}


@pytest.fixture(params=METHODS, ids=".".join, scope="module")
def method(request):
    slot, name = request.param
    return data.Jitted(bind(SLOTS[slot], name))


@pytest.fixture(params=[m for m in METHODS if m[0] != "clip"], ids=".".join, scope="module")
def term(request):
    slot, name = request.param
    return data.Jitted(bind(SLOTS[slot], name))


def counted(fields, result):
    """What a result is about: tokens, or completions."""
    return np.asarray(fields["mask"] if result.ndim == 2 else fields["valid"])


@pytest.mark.parametrize("seed", range(2))
def test_masked_tokens_get_zero_and_others_something(term, seed):
    fields = data.step(seed)
    result = np.asarray(term(fields))
    mask = counted(fields, result)
    assert result.shape in ((data.B, data.T), (data.B,))
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert (result[~mask] == 0).all()
    if term.bound.name in SILENT:
        return
    assert (result[mask] != 0).any() if term.bound.name in PARTIAL else (result[mask] != 0).all()


@pytest.mark.parametrize("name", sorted(CLIPS))
def test_bounds_contain_what_is_no_change_and_are_those_of_trained_tokens(name):
    """A clip gives two bounds on the ratio with 1 between them, also where masked."""
    clip, fields = data.Jitted(bind(CLIPS, name)), data.step(0)
    bounds = [np.asarray(x) for x in clip(data.spoil(fields))]
    low, high = bounds
    assert low.shape == high.shape == (data.B, data.T)
    assert low.dtype == high.dtype == np.float32
    assert ((low >= 0) & (low <= 1) & (high >= 1) & np.isfinite(high)).all()
    mask = np.asarray(fields["mask"])
    for spoilt, plain in zip(bounds, clip(fields), strict=True):
        np.testing.assert_array_equal(spoilt[mask], np.asarray(plain)[mask])


def test_values_under_the_mask_do_not_matter(term):
    fields = data.step(0)
    spoilt = data.spoil(fields)
    np.testing.assert_array_equal(term(spoilt), term(fields))
    expected, found = term.gradients(fields), term.gradients(spoilt)
    for name, grads in found.items():
        np.testing.assert_array_equal(grads, expected[name], err_msg=name)
        assert np.isfinite(grads).all(), name
        if name in CARRIERS:
            assert (grads[~counted(fields, grads)] == 0).all(), name
    flows = any((grads != 0).any() for name, grads in found.items() if name in CARRIERS)
    assert flows == (term.bound.name not in SILENT)


def test_extreme_log_probs_stay_finite(term):
    fields = data.step(0)
    far = jnp.full((data.B, data.T), -60.0)
    for name in ("logprobs", "old_logprobs"):
        assert np.isfinite(np.asarray(term(fields | {name: far}))).all()


@pytest.mark.slow
def test_jit_changes_nothing(method):
    """Slow, as operations one by one are compiled one by one."""
    fields = data.step(1)
    data.close(method(fields), method.run(fields))


@pytest.mark.slow
def test_sharding_over_rows_changes_nothing(method):
    fields = data.step(1)
    data.close(method(data.shard(fields)), method(fields))


@pytest.mark.slow
def test_a_row_depends_on_itself_only(method):
    """Given what was prepared from the whole batch. Slow, as operations one by one are compiled one by one."""
    fields = method.prepared(data.step(1))
    part = {name: jax.tree.map(lambda x: x[4:8] if x.ndim else x, value) for name, value in fields.items()}
    data.close(method.bound(part), jax.tree.map(lambda x: x[4:8], method.bound(fields)))


def test_a_batch_without_a_trained_token_stays_finite(method):
    fields = data.step(0) | {"mask": jnp.zeros((data.B, data.T), bool), "valid": jnp.zeros(data.B, bool)}
    for leaf in jax.tree.leaves(method(data.spoil(fields))):
        assert np.isfinite(np.asarray(leaf)).all()


def test_second_call_compiles_nothing(method):
    assert method.traces_of_a_second_call(data.step(0), data.step(1)) == 0


@pytest.mark.parametrize("name", sorted(name for name in LOSSES if bind(LOSSES, name).counted is not None))
def test_the_tokens_that_count_are_those_with_a_loss(name):
    fields = data.step(0)
    loss = bind(LOSSES, name)
    result = np.asarray(data.Jitted(loss)(fields))
    assert not (result[~np.asarray(loss.counted(fields) & fields["mask"])] != 0).any()
    # Known before the step, so that a microbatch can be divided by the whole batch's count.
    assert not loss.counted.takes & {"logprobs", "entropy", "log_ratio", "low", "high", "values"}
