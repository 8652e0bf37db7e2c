import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import rto_token_rewards
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

ARRAYS = "rewards", "old_logprobs", "ref_logprobs", "dpo_logprobs", "mask", "valid"
METHOD = jax.jit(rto_token_rewards, static_argnames=("dpo_coef", "dpo_clip", "kl_coef", "reward_clip"))


def test_hand_numbers():
    """Log-ratios 0.5 and 4, of which 0.05 times the second is cut; the outcome 20 is cut to 10."""
    old, ref, dpo = (jnp.array([[x]]) for x in ([-2.0, -1.0], [-1.0, -5.0], [-0.5, -1.0]))
    result = METHOD(jnp.array([[20.0]]), old, ref, dpo, jnp.ones((1, 1, 2), bool))
    np.testing.assert_allclose(result[0, 0], [0.025 + 0.01, 0.05 - 0.04 + 10], rtol=1e-6)


@pytest.mark.parametrize("dpo_clip", [0.0, 0.05])
def test_oracle(dpo_clip):
    options = {"dpo_coef": 0.3, "dpo_clip": dpo_clip, "kl_coef": 0.02, "reward_clip": 0.5}
    fields = assemble(0)
    arrays = [fields[name] for name in ARRAYS]
    expected = oracle.rto(*map(np.asarray, arrays), **options)
    np.testing.assert_allclose(METHOD(*arrays, **options), expected, rtol=1e-5, atol=1e-6)
