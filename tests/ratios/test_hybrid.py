import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.errors import ConfigError
from jaxrl_tok.ratios import hybrid
from tests.conformance.fields import step
from tests.oracles import objectives as oracle

HYBRID = jax.jit(hybrid, static_argnames=("mixing", "weight"))
READS = ("logprobs", "old_logprobs", "advantages", "mask")
BOUNDS = (0.8, 1.2, 0.9997, 1.0004)


def test_hand_numbers():
    """Ratios 2 and 1/2, so that of the sequence is 1: (1.2 + 1) / 2 where A > 0, (0.8 + 1) / 2 where A < 0."""
    logprobs = jnp.log(jnp.array([[2.0, 0.5], [2.0, 0.5]]))
    advantages = jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    result = jnp.exp(HYBRID(logprobs, jnp.zeros((2, 2)), advantages, jnp.ones((2, 2), bool)))
    np.testing.assert_allclose(result, [[1.1, 0.75], [1.5, 0.9]], rtol=1e-6)


@pytest.mark.parametrize("mixing", ["average", "entropy"])
def test_oracle(mixing):
    for seed in range(3):
        fields = step(seed)
        arrays = [fields[name] for name in READS]
        entropy, mask = np.asarray(fields["entropy"], np.float64), np.asarray(fields["mask"])
        weights = np.full(mask.shape, 0.3)
        if mixing == "entropy":
            highest = np.max(np.where(mask, entropy, 0), axis=1, keepdims=True)
            weights = np.where(highest > 0, entropy / np.where(highest > 0, highest, 1), 0.3)
        expected = oracle.hybrid(*map(np.asarray, arrays), weights, BOUNDS)
        result = HYBRID(*arrays, fields["entropy"], mixing=mixing, weight=0.3)
        np.testing.assert_allclose(result, expected, rtol=2e-5, atol=1e-6)


def test_bad_options_are_refused():
    arrays = [step(0)[name] for name in READS]
    with pytest.raises(ConfigError, match=r"weight = 1.5 must lie in \[0, 1\]"):
        hybrid(*arrays, weight=1.5)
    with pytest.raises(ConfigError, match=r"sequence_high = 0\.9"):
        hybrid(*arrays, sequence_high=0.9)
    with pytest.raises(ConfigError, match='mixing = "entropy" needs the array entropy'):
        hybrid(*arrays, mixing="entropy")
