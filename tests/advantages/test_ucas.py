import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.advantages import ucas
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import assemble, mesh, spoil

UCAS = jax.jit(ucas, static_argnames=("vocab_size", "singleton"))
READS = ("advantages", "target_logit", "sum_logits", "lse", "mask", "valid")


def slow(advantages, logit, sum_logits, lse, mask, valid, vocab_size):
    mask = mask & valid[:, :, None]
    out, low, high = np.zeros(mask.shape), logit[mask].min(), logit[mask].max()
    certainty = np.where(mask, lse - sum_logits / vocab_size, 0).sum(2)
    for p, g, t in np.argwhere(mask):
        group = [certainty[p, k] for k in range(mask.shape[1]) if mask[p, k].any()]
        z = 0.0
        if len(group) > 1:
            z = (certainty[p, g] - np.mean(group)) / (np.std(group, ddof=1) + 1e-6)
        a = advantages[p, g, t]
        shaped = a * math.exp(-0.25 * z if a > 0 else 0.35 * z)
        lowered = shaped - 0.05 * (logit[p, g, t] - low) / (high - low + 1e-6)
        out[p, g, t] = max(lowered, 0) if shaped > 0 else lowered
    return out


@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed):
    fields = assemble(seed)
    expected = slow(*(np.asarray(fields[name]) for name in READS), vocab_size=5)
    result = UCAS(*(spoil(fields)[name] for name in READS), vocab_size=5)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_no_advantage_is_still_pushed_down_and_a_positive_one_not_below_zero():
    """Logits 0 and 1 are the batch's ends; all equal ones lie in the middle."""
    advantages, logits = jnp.array([[[0.0, 0.01, 1.0]]]), jnp.array([[[1.0, 1.0, 0.0]]])
    arrays = jnp.zeros((1, 1, 3)), jnp.zeros((1, 1, 3)), jnp.ones((1, 1, 3), bool)
    result = UCAS(advantages, logits, *arrays, vocab_size=4)
    np.testing.assert_allclose(result, [[[-0.05, 0, 1]]], rtol=1e-5, atol=1e-7)
    result = UCAS(advantages, 0 * logits, *arrays, vocab_size=4)
    np.testing.assert_allclose(result, [[[-0.025, 0, 0.975]]], rtol=1e-5)


def test_a_group_of_one_has_no_certainty_to_compare_or_its_own():
    one, ones = jnp.ones((1, 1, 1)), jnp.ones((1, 1, 1), bool)
    np.testing.assert_allclose(UCAS(one, one, 0 * one, 2 * one, ones, vocab_size=4), [[[0.975]]], rtol=1e-6)
    raw = UCAS(one, one, 0 * one, 2 * one, ones, vocab_size=4, singleton="raw")
    np.testing.assert_allclose(raw, [[[math.exp(-0.5) - 0.025]]], rtol=1e-5)


def test_in_shard_map_the_ends_of_the_logits_are_those_of_all_shards():
    fields = assemble(0)
    arrays = [fields[name] for name in READS]
    spec = PartitionSpec("data")

    def sharded(axis_name):
        method = lambda *a: ucas(*a, vocab_size=5, axis_name=axis_name)  # noqa: E731
        return jax.jit(jax.shard_map(method, mesh=mesh(), in_specs=spec, out_specs=spec))(*arrays)

    expected = UCAS(*arrays, vocab_size=5)
    np.testing.assert_allclose(sharded("data"), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(sharded(None), expected, atol=1e-3)


def test_a_vocabulary_without_entries_is_refused():
    one = jnp.ones((1, 1, 1))
    with pytest.raises(ConfigError, match="vocab_size = 0 must be at least 1"):
        ucas(one, one, one, one, one > 0, vocab_size=0)
