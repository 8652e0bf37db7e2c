import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import kl_cov
from jaxrl_tok.losses.kl_cov import prepare
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

PREPARE = jax.jit(prepare, static_argnames="fraction")


def test_hand_numbers():
    """-2 r A, and |log r| more on the second token."""
    log_ratio, advantages = jnp.log(jnp.array([[3.0, 0.5]])), jnp.array([[1.0, -1.0]])
    prepared, mask = jnp.array([[False, True]]), jnp.ones((1, 2), bool)
    result = kl_cov(log_ratio, advantages, 2 * jnp.ones((1, 2)), prepared, mask, coefficient=10.0)
    np.testing.assert_allclose(result, [[-6, 1 + 10 * np.log(2)]], rtol=1e-6)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 1.0])
def test_the_largest_covariances_are_penalised_and_at_least_one(fraction):
    for seed in range(3):
        fields = step(seed)
        mask = np.asarray(fields["mask"])
        covariance = oracle.covariance(*(np.asarray(fields[name]) for name in ("logprobs", "advantages")), mask)
        expected = oracle.best(covariance, mask, max(int(fraction * mask.sum()), 1))
        result = PREPARE(fields["logprobs"], fields["advantages"], fields["mask"], fraction=fraction)
        np.testing.assert_array_equal(result, expected)


def test_the_penalty_has_no_gradient_at_the_old_policy():
    zeros, ones, mask = jnp.zeros((1, 2)), jnp.ones((1, 2)), jnp.ones((1, 2), bool)
    grads = jax.jit(jax.grad(lambda x: jnp.sum(kl_cov(x, 3 * ones, ones, mask, mask))))(zeros)
    np.testing.assert_array_equal(grads, [[-3, -3]])


def test_a_fraction_outside_its_range_is_refused():
    fields = step(0)
    with pytest.raises(ConfigError, match=r"kl_cov: fraction = -1\.0"):
        prepare(fields["logprobs"], fields["advantages"], fields["mask"], fraction=-1.0)
