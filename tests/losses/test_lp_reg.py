import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import lp_reg, ppo_clip
from jaxrl_tok.losses.lp_reg import prepare
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

LOSS, PREPARE = jax.jit(lp_reg, static_argnames="coefficient"), jax.jit(prepare, static_argnames="fraction")
READS = ("log_ratio", "low", "high")


def call(fields, prepared, **hyper):
    names = ("logprobs", *READS, "proxy_logprobs", "advantages", "token_weights")
    return LOSS(*(fields[name] for name in names), prepared, fields["mask"], **hyper)


GRADS = jax.jit(jax.grad(lambda x, fields, chosen: jnp.sum(call(fields | {"logprobs": x}, chosen))))


def test_oracle():
    """Among the drawn tokens one that the filter removed, which is left alone, and one whose k3 is above 10."""
    for seed in range(3):
        fields = step(seed)
        mask = np.asarray(fields["mask"])
        bad = mask & (np.asarray(fields["advantages"]) < 0)
        chosen = PREPARE(fields["logprobs"], fields["advantages"], fields["mask"], fraction=0.5)
        np.testing.assert_array_equal(chosen, oracle.best(-np.asarray(fields["logprobs"]), bad, int(0.5 * bad.sum())))
        first, second = np.argwhere(chosen)[:2]
        proxy = fields["proxy_logprobs"].at[tuple(first)].set(-jnp.inf)
        proxy = proxy.at[tuple(second)].set(fields["logprobs"][tuple(second)] + 9)
        fields["proxy_logprobs"] = proxy
        expected = np.array(ppo_clip(*(fields[n] for n in (*READS, "advantages", "token_weights", "mask"))))
        for b, t in np.argwhere(chosen):
            lp, to = float(fields["logprobs"][b, t]), float(proxy[b, t])
            if lp < to:
                policy = math.exp(float(fields["log_ratio"][b, t])) * float(fields["advantages"][b, t])
                k3 = min(math.exp(to - lp) - 1 - (to - lp), 10)
                expected[b, t] = -policy * float(fields["token_weights"][b, t]) + 0.5 * k3
        np.testing.assert_allclose(call(fields, chosen, coefficient=0.5), expected, rtol=2e-5, atol=1e-6)
        grads = GRADS(fields["logprobs"], fields, chosen)
        assert np.isfinite(grads).all()
        assert grads[tuple(first)] == 0  # removed by the filter
        assert grads[tuple(second)] == 0  # beyond the bound
        assert (np.asarray(grads) != 0).any()


def test_one_token_is_too_few():
    logprobs, advantages = -jnp.arange(1.0, 6.0)[None], -jnp.ones((1, 5))
    for fraction, kept in ((0.2, []), (0.4, [3, 4]), (1.0, [0, 1, 2, 3, 4])):
        chosen = PREPARE(logprobs, advantages, jnp.ones((1, 5), bool), fraction=fraction)
        assert np.flatnonzero(chosen[0]).tolist() == kept


def test_a_fraction_outside_its_range_is_refused():
    with pytest.raises(ConfigError, match=r"lp_reg: fraction = 1\.5"):
        prepare(jnp.zeros((1, 1)), jnp.zeros((1, 1)), jnp.ones((1, 1), bool), fraction=1.5)
