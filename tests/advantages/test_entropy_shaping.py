import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import entropy_shaping
from jaxrl_tok.errors import ConfigError


def test_hand_numbers():
    """0.4 H, at most half of |A|: a bonus of 0.4, of 0.5, a penalty weakened, nothing where A is 0."""
    advantages, entropy = jnp.array([[[1.0, 1.0, -2.0, 0.0]]]), jnp.array([[[1.0, 9.0, 1.0, 9.0]]])
    result = entropy_shaping(advantages, entropy, jnp.ones((1, 1, 4), bool))
    np.testing.assert_allclose(result, [[[1.4, 1.5, -1.6, 0]]], rtol=1e-6)


def test_masked_and_missing_ones_get_zero():
    advantages = jnp.full((1, 2, 2), jnp.nan).at[0, 0, 0].set(1.0)
    mask, valid = jnp.array([[[True, False], [True, True]]]), jnp.array([[True, False]])
    result = entropy_shaping(advantages, advantages, mask, valid)
    np.testing.assert_allclose(result, [[[1.4, 0], [0, 0]]], rtol=1e-6)


@pytest.mark.parametrize("hyper", [{"kappa": 0.0}, {"alpha": -1.0}])
def test_bad_options_are_refused(hyper):
    x = jnp.ones((1, 1, 1))
    with pytest.raises(ConfigError, match=f"{next(iter(hyper))} = "):
        entropy_shaping(x, x, x > 0, **hyper)
