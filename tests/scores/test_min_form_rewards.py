import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import min_form_rewards
from tests.oracles import structures as oracle

REWARDS = jax.jit(min_form_rewards, static_argnames="temperature")


def test_hand_numbers():
    """At temperature 1 rewards ln 2 and 0 weigh 1/3 and 2/3; one step keeps its own; what does not exist is 0."""
    rewards = jnp.array([[[np.log(2.0), 0.0], [0.75, jnp.nan], [jnp.nan, jnp.nan]]])
    exists = jnp.array([[[True, True], [True, False], [False, False]]])
    result = REWARDS(rewards, exists, temperature=1.0)
    np.testing.assert_allclose(result, [[[np.log(2.0) / 3, 0], [0.75, 0], [0, 0]]], rtol=1e-6)


def test_oracle():
    rewards = np.random.default_rng(0).uniform(-1, 1, 5)
    result = REWARDS(jnp.asarray(rewards, jnp.float32)[None, None], jnp.ones((1, 1, 5), bool))
    np.testing.assert_allclose(result[0, 0], oracle.min_form(rewards, 0.1), rtol=1e-4, atol=1e-7)


def test_temperature_must_be_positive():
    with pytest.raises(ConfigError, match=r"temperature = 0\.0 must be above 0"):
        REWARDS(jnp.zeros((1, 1, 1)), jnp.ones((1, 1, 1), bool), temperature=0.0)
