import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.scores import spo_cutpoints

CUT = jax.jit(spo_cutpoints, static_argnames=("threshold", "interval"))


def test_hand_numbers():
    """Uncertain are the tokens 1, 2, 4, 5, 6 without the masked 3; every second of them starts a segment."""
    logprobs = jnp.log(jnp.array([[[0.95, 0.5, 0.5, 0.5, 0.1, 0.8999, 0.2, 0.91]]]))
    mask = jnp.ones((1, 1, 8), bool).at[0, 0, 3].set(False)
    result = CUT(logprobs, mask, interval=2)
    assert np.flatnonzero(result).tolist() == [1, 4, 6]
    assert np.flatnonzero(CUT(logprobs, mask)).tolist() == [1]
    assert not CUT(jnp.log(jnp.full((1, 1, 4), 0.95)), jnp.ones((1, 1, 4), bool)).any()


def test_a_threshold_above_one_gives_segments_of_fixed_length():
    result = CUT(jnp.zeros((1, 1, 7)), jnp.ones((1, 1, 7), bool), threshold=1.1, interval=3)
    assert np.flatnonzero(result).tolist() == [0, 3, 6]


def test_bad_values():
    arrays = jnp.zeros((1, 1, 2)), jnp.ones((1, 1, 2), bool)
    with pytest.raises(ConfigError, match="interval = 0 must be at least 1"):
        CUT(*arrays, interval=0)
    with pytest.raises(ConfigError, match=r"threshold = 0\.0 must be above 0"):
        CUT(*arrays, threshold=0.0)
