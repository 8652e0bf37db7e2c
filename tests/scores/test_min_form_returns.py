import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import min_form_returns
from tests.conformance.fields import assemble
from tests.oracles import structures as oracle

NAMES = "rewards", "segment_ids", "step_rewards", "step_mask", "mask", "valid", "old_logprobs", "ref_logprobs"
RETURNS = jax.jit(min_form_returns, static_argnames=("baseline", "kl_weight"))


@pytest.mark.parametrize("baseline", ["token", "step"])
def test_oracle(baseline):
    for seed in range(3):
        fields = assemble(seed)
        values = [np.asarray(fields[name], np.float64 if name == "step_rewards" else None) for name in NAMES]
        k1 = values[6].astype(float) - values[7]
        returns, inside = oracle.min_form_returns(*values[:6], k1, baseline=baseline)
        result = RETURNS(*(fields[name] for name in NAMES), baseline=baseline, kl_weight=0.01)
        np.testing.assert_array_equal(result.inside, inside)
        np.testing.assert_allclose(result.returns, returns, rtol=1e-4, atol=1e-5)


def test_the_separator_is_the_last_trained_token_of_a_step():
    """A hole inside a step, and a masked token at its end."""
    ids = jnp.array([[[0, 0, 0, 1, 1, -1]]])
    mask = jnp.array([[[True, False, True, True, False, True]]])
    steps = jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2), bool)
    assert np.flatnonzero(RETURNS(jnp.zeros((1, 1)), ids, *steps, mask).inside).tolist() == [0]
