import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import ppo_clip
from tests.conformance.fields import step
from tests.oracles import losses as oracle

READS = ("log_ratio", "low", "high", "advantages", "token_weights", "mask")


def row(*values):
    return jnp.array([values], jnp.float32)


def loss(ratio, advantages, **hyper):
    ones = jnp.ones_like(advantages)
    return ppo_clip(jnp.log(ratio), 0.8 * ones, 1.2 * ones, advantages, ones, jnp.ones(ones.shape, bool), **hyper)


def test_hand_numbers():
    """Free inside; beyond a bound clipped only where that is the pessimistic side."""
    ratio, advantages = row(1.1, 1.5, 0.5, 1.5, 0.5), row(1, 1, 1, -1, -1)
    np.testing.assert_allclose(loss(ratio, advantages), row(-1.1, -1.2, -0.5, 1.5, 0.8), rtol=1e-6)


def test_gradient_is_minus_ratio_times_advantage_where_not_clipped():
    ratio, advantages = row(1.1, 1.5, 0.5, 1.5, 0.5), row(2, 2, 2, -2, -2)
    grads = jax.grad(lambda x: jnp.sum(loss(jnp.exp(x), advantages)))(jnp.log(ratio))
    np.testing.assert_allclose(grads, row(-2.2, 0, -1, 3, 0), rtol=1e-6)


def test_dual_clip_caps_the_loss_of_bad_tokens_only():
    ratio, advantages = row(10, 10, 2), row(-1, 1, -1)
    np.testing.assert_allclose(loss(ratio, advantages), row(10, -1.2, 2), rtol=1e-6)
    np.testing.assert_allclose(loss(ratio, advantages, dual_clip=3.0), row(3, -1.2, 2), rtol=1e-6)
    with pytest.raises(ConfigError, match=r"dual_clip = 0\.5 must be above 1"):
        loss(ratio, advantages, dual_clip=0.5)


@pytest.mark.parametrize("dual_clip", [None, 1.5])
@pytest.mark.parametrize("seed", range(3))
def test_oracle(seed, dual_clip):
    fields = step(seed)
    arrays = [fields[name] for name in READS]
    expected = oracle.ppo_clip(*map(np.asarray, arrays), dual_clip=dual_clip)
    np.testing.assert_allclose(ppo_clip(*arrays, dual_clip=dual_clip), expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000))
def test_infinite_clip_is_the_unclipped_surrogate(seed):
    fields = step(seed)
    fields |= {"low": jnp.full_like(fields["low"], -jnp.inf), "high": jnp.full_like(fields["high"], jnp.inf)}

    def surrogate(x):
        plain = -jnp.exp(x) * fields["advantages"] * fields["token_weights"]
        return jnp.where(fields["mask"], plain, 0)

    def clipped(x):
        return ppo_clip(*((fields | {"log_ratio": x})[name] for name in READS))

    x = fields["log_ratio"]
    np.testing.assert_allclose(clipped(x), surrogate(x), rtol=1e-6)
    grads = [jax.grad(lambda x, f=f: jnp.sum(f(x)))(x) for f in (clipped, surrogate)]
    np.testing.assert_allclose(*grads, rtol=1e-6)


def test_at_the_old_policy_the_loss_is_minus_the_advantage():
    fields = step(0) | {"log_ratio": jnp.zeros((16, 7)), "token_weights": jnp.ones((16, 7))}
    expected = jnp.where(fields["mask"], -fields["advantages"], 0)
    np.testing.assert_array_equal(ppo_clip(*(fields[name] for name in READS)), expected)
