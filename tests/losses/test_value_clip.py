import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.losses import value_clip
from tests.conformance.fields import step
from tests.oracles import outcomes as oracle

METHOD = jax.jit(value_clip, static_argnames="clip")


def test_hand_numbers_and_gradient():
    """Target 2, old value 0, clip 1/2: the value 1 counts as 1/2, the value -1 as itself, being farther away."""
    mask = jnp.array([[True, True, True, False]])
    values, old, returns = (
        jnp.array([x]) for x in ([1.0, -1.0, 0.25, jnp.nan], [0.0, 0.0, 0.0, jnp.nan], [2.0, 2.0, 2.0, jnp.nan])
    )
    result = METHOD(values, old, returns, mask, clip=0.5)
    np.testing.assert_array_equal(result, [[1.5**2 / 2, 3**2 / 2, 1.75**2 / 2, 0]])
    gradient = jax.grad(lambda v: jnp.sum(METHOD(v, old, returns, mask, clip=0.5)))(values)
    np.testing.assert_array_equal(gradient, [[0, -3, -1.75, 0]])


def test_oracle():
    fields = step(0)
    arrays = [fields[name] for name in ("values", "old_values", "returns", "mask")]
    expected = oracle.value_clip(*map(np.asarray, arrays), 0.3)
    np.testing.assert_allclose(METHOD(*arrays, clip=0.3), expected, rtol=1e-5, atol=1e-6)


def test_a_clip_of_zero_is_refused():
    with pytest.raises(ConfigError, match="clip = 0"):
        METHOD(*[jnp.ones((1, 1))] * 3, jnp.ones((1, 1), bool), clip=0.0)
