import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.config.bind import bind
from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import LOSSES, clip_cov, ppo_clip
from jaxrl_tok.losses.clip_cov import prepare
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

READS = ("log_ratio", "low", "high", "advantages", "token_weights")
BOUND = bind(LOSSES, "clip_cov", fraction=0.1, cov_low=0.1, cov_high=1.0)
PREPARE = jax.jit(BOUND.prepare)
DRAW = jax.jit(prepare, static_argnames=("fraction", "cov_low"))


def test_hand_numbers():
    """Deviations of +-1 of both: cov 1 at every token, one of them clipped already; the draw takes the next."""
    logprobs, advantages = jnp.array([[-1.0, -3.0, -1.0, -3.0]]), jnp.array([[1.0, -1.0, 1.0, -1.0]])
    log_ratio = jnp.log(jnp.array([[1.5, 1.0, 1.0, 1.0]]))
    low, high, mask = 0.8 * jnp.ones((1, 4)), 1.2 * jnp.ones((1, 4)), jnp.ones((1, 4), bool)
    priority = jnp.array([[0.9, 0.2, 0.7, 0.1]])
    for fraction, drawn in ((0.0, [2]), (0.5, [1, 2]), (1.0, [1, 2, 3])):
        dropped = DRAW(logprobs, log_ratio, low, high, advantages, priority, mask, fraction=fraction, cov_low=0.5)
        assert np.flatnonzero(dropped[0]).tolist() == drawn


def test_oracle_of_the_draw_and_of_the_loss():
    for seed in range(3):
        fields = step(seed)
        arrays = {name: np.asarray(x, np.float64) for name, x in fields.items()}
        mask = np.asarray(fields["mask"])
        covariance = oracle.covariance(arrays["logprobs"], arrays["advantages"], mask)
        ratio, a = np.exp(arrays["log_ratio"]), arrays["advantages"]
        clipped = np.where(a > 0, ratio > arrays["high"], ratio < arrays["low"])
        candidates = mask & (covariance > 0.1) & (covariance < 1.0) & ~clipped
        expected = oracle.best(arrays["priority"], candidates, max(int(0.1 * mask.sum()), 1))
        dropped = PREPARE(fields)
        np.testing.assert_array_equal(dropped, expected)
        assert expected.any()
        rows = [fields[name] for name in READS]
        losses = jax.jit(clip_cov)(*rows, dropped, fields["mask"])
        plain = jax.jit(ppo_clip)(*rows, fields["mask"])
        np.testing.assert_array_equal(losses, np.where(expected, 0, plain))


def test_dropped_tokens_have_no_gradient():
    fields = step(0)
    dropped = PREPARE(fields)
    grads = jax.jit(
        jax.grad(lambda x: jnp.sum(clip_cov(x, *(fields[name] for name in READS[1:]), dropped, fields["mask"])))
    )(fields["log_ratio"])
    assert (np.asarray(grads)[np.asarray(dropped)] == 0).all()
    assert np.isfinite(grads).all()


def test_a_batch_without_a_token_drops_none():
    fields = step(0) | {"mask": jnp.zeros((16, 7), bool)}
    assert not PREPARE(fields).any()


def test_a_fraction_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"clip_cov: fraction = 2\.0"):
        bind(LOSSES, "clip_cov", fraction=2.0).prepare(step(0))
