from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import rhythm
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle

NAMES = "attention_distance", "attention_received", "advantages", "mask"
THRESHOLDS = {"distance_threshold": 0.6, "change_threshold": 0.3}


@pytest.mark.parametrize(("mode", "window"), [("local", 3), ("global", 3), ("coupled", 1), ("coupled", 3)])
def test_oracle(mode, window):
    options = {"mode": mode, "window": window, "fraction": 0.5, "amplify": 1.5, "handover": 0.4}
    method = jax.jit(partial(rhythm, **options, **THRESHOLDS))
    for seed in range(3):
        arrays = [assemble(seed)[name] for name in NAMES]
        distance, received, advantages, mask = map(np.asarray, arrays)
        expected = oracle.rhythm(distance, received, mask, near=0.6, far=0.3, **options)
        expected = np.where(mask & (advantages < 0), 1, expected)
        np.testing.assert_allclose(method(*arrays), expected, rtol=1e-6)


def test_one_completion_in_every_mode():
    """Changes 4, 1, 0, 2, 0. Anchors are 1, 2 and 4; 1 and 2 look near and stand behind the 4."""
    distance = jnp.array([[[1.0, 5.0, 4.0, 4.0, 6.0]]])
    received = jnp.array([[[0.1, 0.7, 0.8, 0.2, 0.9]]])
    arrays = distance, received, jnp.ones_like(distance), distance > 0
    options = {"distance_threshold": 5.0, "change_threshold": 3.0, "window": 2, "fraction": 0.6}
    weights = {
        mode: jax.jit(partial(rhythm, mode=mode, **options))(*arrays)[0, 0] for mode in ("local", "global", "coupled")
    }
    np.testing.assert_array_equal(weights["local"], [1.5, 1.5, 1, 1.5, 1])
    np.testing.assert_array_equal(weights["global"], [1, 1.5, 1.5, 1, 1.5])
    np.testing.assert_array_equal(weights["coupled"], [1.25, 1.25, 1.25, 1, 1.5])


def test_bad_options_are_refused():
    ones = jnp.ones((1, 1, 2))
    with pytest.raises(ConfigError, match="needs distance_threshold and change_threshold"):
        rhythm(ones, ones, ones, ones > 0, mode="coupled", change_threshold=0.1)
    for option in ({"fraction": 0.0}, {"amplify": 0.9}, {"handover": 2.0}, {"window": 0}):
        with pytest.raises(ConfigError, match="rhythm: fraction"):
            rhythm(ones, ones, ones, ones > 0, **option)
