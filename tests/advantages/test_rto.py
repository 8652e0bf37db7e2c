import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import rto
from jaxrl_tok.advantages.rto import returns
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

CONSTANTS = {"dpo_coef": 0.5, "dpo_clip": 0.3, "kl_coef": 0.1, "reward_clip": 2.0}
SETTINGS = ("gamma", "lam", *CONSTANTS)
METHOD = jax.jit(rto, static_argnames=(*SETTINGS, "whitening"))
RETURNS = jax.jit(returns, static_argnames=SETTINGS)


def test_hand_numbers():
    """Token rewards 0.05 2 - 0.1 = 0 and 0.05 - 0.1 + 1 = 0.95, values 0 and 0.5: A = 0.5 + 0.5 0.45 and 0.45."""
    one = jnp.ones((1, 1, 2))
    arrays = jnp.ones((1, 1)), 0 * one, -one, jnp.array([[[1.0, 0.0]]]), jnp.array([[[0.0, 0.5]]])
    options = {"lam": 0.5, "dpo_clip": 1.0, "kl_coef": 0.1}
    found = METHOD(*arrays, one > 0, **options, whitening="off")
    np.testing.assert_allclose(found, [[[0.5 + 0.5 * 0.45, 0.45]]], rtol=1e-6)
    np.testing.assert_allclose(RETURNS(*arrays, one > 0, **options), [[[0.725, 0.95]]], rtol=1e-6)


def test_it_is_gae_on_its_token_rewards():
    fields = assemble(0)
    logprobs = [fields[name] for name in ("old_logprobs", "ref_logprobs", "dpo_logprobs")]
    rewards, values, mask, valid = (fields[name] for name in ("rewards", "values", "mask", "valid"))
    rows = map(np.asarray, (rewards, *logprobs, mask, valid))
    token_rewards = oracle.rto(*rows, **CONSTANTS)
    raw, targets = oracle.gae(*map(np.asarray, (token_rewards, values, mask, valid)), gamma=0.9, lam=0.8)
    arrays = rewards, *logprobs, values, mask, valid
    options = {"gamma": 0.9, "lam": 0.8, **CONSTANTS}
    np.testing.assert_allclose(RETURNS(*arrays, **options), targets, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(METHOD(*arrays, **options, whitening="off"), raw, rtol=1e-5, atol=2e-6)
    whitened = oracle.whiten(raw, np.asarray(mask), np.asarray(valid), "openrlhf")
    np.testing.assert_allclose(METHOD(*arrays, **options), whitened, rtol=1e-5, atol=2e-6)
