from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import icepop
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle


def test_oracle():
    fields = assemble(1)
    arrays = [fields[n] for n in ("old_logprobs", "sampler_logprobs", "mask")]
    options = {"low": 0.8, "high": 1.2}
    expected = oracle.importance(*map(np.asarray, arrays), mode="mask", **options)
    result = jax.jit(partial(icepop, **options))(*arrays)
    assert 0 < np.sum(expected == 0) - np.sum(~np.asarray(arrays[2])) < np.sum(arrays[2])
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_outside_the_band_is_dropped_and_its_ends_are_kept():
    """The ratios 0.4, 0.5, 1, 4, 5.1; the lower bound is what exp makes of log 0.5."""
    old = jnp.array([[[np.log(0.4), -jnp.log(2.0), 0.0, jnp.log(4.0), np.log(5.1)]]])
    mask = jnp.ones(old.shape, bool)
    result = icepop(old, jnp.zeros_like(old), mask, low=float(jnp.exp(-jnp.log(2.0))))
    np.testing.assert_allclose(result, [[[0, 0.5, 1, 4, 0]]], rtol=1e-6)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ConfigError, match=r"low = 6\.0 and high = 5\.0 must satisfy"):
        icepop(jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2)), jnp.ones((1, 1, 2), bool), low=6.0)
