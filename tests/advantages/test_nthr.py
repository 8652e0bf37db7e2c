import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import nthr
from tests.conformance.fields import assemble, spoil
from tests.oracles import objectives as oracle

NTHR = jax.jit(nthr, static_argnames="beta")
READS = ("advantages", "rewards", "hidden", "token_errors", "mask", "valid")


def slow(advantages, rewards, hidden, errors, mask, valid, beta):
    out = np.where(mask & valid[:, :, None], advantages, 0)
    for p in range(len(rewards)):
        correct = valid[p] & (rewards[p] > 0.5)
        scores = oracle.thr_scores(
            hidden[p : p + 1], errors[p : p + 1], correct[None], mask[p : p + 1], valid[p : p + 1]
        )[0]
        means = [scores[k][mask[p, k]].mean() for k in np.flatnonzero(correct) if mask[p, k].any()]
        for g in np.flatnonzero(valid[p] & ~correct):
            for t in np.flatnonzero(mask[p, g]):
                if means and scores[g, t] > beta * min(means):
                    out[p, g, t] *= 2 * abs(0.5 - correct.sum() / valid[p].sum())
    return out


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_oracle(beta):
    changed = 0
    for seed in range(4):
        fields = assemble(seed)
        arrays = [np.asarray(fields[name]) for name in READS]
        expected = slow(*arrays, beta)
        changed += (expected != np.where(fields["mask"], arrays[0], 0)).sum()
        result = NTHR(*(spoil(fields)[name] for name in READS), beta=beta)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)
    assert changed > 0


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_a_group_of_one_kind_is_unchanged(reward):
    fields = assemble(0) | {"rewards": jnp.full((4, 4), reward)}
    expected = jnp.where(fields["mask"], fields["advantages"], 0)
    np.testing.assert_array_equal(nthr(*(fields[name] for name in READS)), expected)
