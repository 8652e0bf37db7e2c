import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.token_weights import dgpo
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle

ONE = jnp.ones((1, 1, 2))


@pytest.mark.parametrize(("temperature", "kappa"), [(0.5, 1.0), (0.01, 0.5), (2.0, 0.0)])
def test_oracle(temperature, kappa):
    options = {"vocab_size": 50, "temperature": temperature, "kappa": kappa}
    method = jax.jit(partial(dgpo, **options))
    for seed in range(2):
        fields = assemble(seed)
        arrays = [fields[name] for name in ("hellinger", "old_entropy", "mask")]
        expected = oracle.dgpo(*map(np.asarray, arrays), **options)
        np.testing.assert_allclose(method(*arrays), expected, rtol=2e-5, atol=1e-6)


def test_two_tokens_by_hand():
    """V = e^2 would give H / log V = 1/2, 1; V = 4 gives 1/2 and 1 for half and full entropy: s = 0.2 and 0.8."""
    entropy = jnp.array([[[math.log(2), math.log(4)]]])
    hellinger = jnp.array([[[0.4, 0.8]]])
    powers = np.exp([0.2 / 0.5, 0.8 / 0.5])
    expected = 2 * powers / powers.sum()
    result = jax.jit(partial(dgpo, vocab_size=4))(hellinger, entropy, ONE > 0)
    np.testing.assert_allclose(result[0, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("option", [{"temperature": 0.0}, {"kappa": -1.0}, {"vocab_size": 1}])
def test_bad_numbers_are_refused(option):
    with pytest.raises(ConfigError, match="dgpo: temperature"):
        dgpo(ONE, ONE, ONE > 0, **option)
