import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.clips import dcpo
from jaxrl_tok.errors import ConfigError
from tests.oracles import objectives as oracle

DCPO = jax.jit(dcpo, static_argnames=("epsilon_low", "epsilon_high", "cap", "as_released"))


def bounds(*logprobs, **hyper):
    row = jnp.array([logprobs])
    low, high = DCPO(row, jnp.ones(row.shape, bool), **hyper)
    return np.asarray(low)[0], np.asarray(high)[0]


def test_hand_numbers():
    """q = 1: (1 + sqrt(0.2)) / 2 and (1 + sqrt(2.12)) / 2; q = 1/2: no lower root, (1 + sqrt(3.24)) / 2 = 1.4."""
    low, high = bounds(0.0, np.log(0.5))
    np.testing.assert_allclose(low, [0.7236068, 0.5], rtol=1e-6)
    np.testing.assert_allclose(high, [1.2280110, 1.4], rtol=1e-6)


def test_oracle():
    logprobs = [-0.01, -0.2, -1.0, -3.0, -8.0, -20.0]
    for hyper in (
        {"epsilon_low": 0.16, "epsilon_high": 0.2, "cap": 10.0},
        {"epsilon_low": 0.2, "epsilon_high": 0.28, "cap": 3.0},
    ):
        expected = [oracle.dcpo_bounds(x, **hyper) for x in logprobs]
        np.testing.assert_allclose(np.stack(bounds(*logprobs, **hyper), 1), expected, rtol=1e-5)


def test_a_probability_of_zero_has_the_limit_or_what_was_released():
    assert [x.tolist() for x in bounds(-200.0)] == [[0.5], [10.0]]
    assert [x.tolist() for x in bounds(-200.0, as_released=True)] == [[1.0], [10.0]]
    assert [x.tolist() for x in bounds(-80.0, as_released=True)] == [[0.5], [10.0]]


def test_masked_tokens_have_finite_bounds():
    low, high = dcpo(jnp.array([[jnp.nan, -jnp.inf]]), jnp.zeros((1, 2), bool))
    assert np.isfinite([low, high]).all()


@pytest.mark.parametrize("hyper", [{"epsilon_low": -0.1}, {"epsilon_high": -1.0}, {"cap": 0.5}])
def test_bad_options_are_refused(hyper):
    with pytest.raises(ConfigError, match=f"{next(iter(hyper))} = "):
        bounds(-1.0, **hyper)
