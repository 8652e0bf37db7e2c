import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import pure
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "step_rewards", "step_mask", "mask", "valid", "old_logprobs", "ref_logprobs"
PURE = jax.jit(pure, static_argnames=("baseline", "as_released", "kl_weight", "verifier_weight", "temperature"))


def expected_returns(fields, **options):
    values = [np.asarray(fields[name], np.float64 if name == "step_rewards" else None) for name in NAMES]
    k1 = values[6].astype(float) - values[7]
    return oracle.min_form_returns(*values[:6], k1, **options)


@pytest.mark.parametrize("baseline", ["token", "step"])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, baseline):
    fields = assemble(seed)
    returns, inside = expected_returns(fields, baseline=baseline)
    values = returns[inside]
    expected = np.where(inside, (returns - values.mean()) / values.std(), 0)
    result = PURE(*(fields[name] for name in NAMES), baseline=baseline, kl_weight=0.01)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_as_released_the_variance_counts_the_mean_of_each_separator():
    fields = assemble(1)
    returns, inside = expected_returns(fields)
    mask = np.asarray(fields["mask"] & fields["valid"][:, :, None])
    mean = returns[inside].mean()
    variance = ((returns[mask] - mean) ** 2).sum() / inside.sum()
    expected = np.where(inside, (returns - mean) / variance**0.5, 0)
    result = PURE(*(fields[name] for name in NAMES), as_released=True, kl_weight=0.01)
    np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_without_log_probs_there_is_no_penalty():
    fields = assemble(0)
    arrays = [fields[name] for name in NAMES]
    np.testing.assert_allclose(PURE(*arrays[:6]), PURE(*arrays, kl_weight=0.0), rtol=1e-6)


def test_the_tokens_before_the_worst_step_bear_it():
    """One completion, steps of 2 tokens, the last a separator; the second step is the worst by far."""
    ids, rewards = jnp.array([[[0, 0, 1, 1, 2, 2]]]), jnp.array([[[0.5, -0.9, 0.5]]])
    result = np.asarray(
        PURE(jnp.ones((1, 1)), ids, rewards, jnp.ones((1, 1, 3), bool), jnp.ones((1, 1, 6), bool))[0, 0]
    )
    assert (result[1::2] == 0).all()
    np.testing.assert_allclose(result[::2], np.array([-1, -1, 2]) / 2**0.5, rtol=1e-4)
