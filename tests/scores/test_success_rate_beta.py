import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import success_rate_beta
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(success_rate_beta)


def test_hand_numbers():
    """Rates 1/4 and 1/2: mu = 3/8, v = 1/32, size 15/64 * 32 - 1 = 6.5, so 1 + 6.5 (3/8, 5/8) / 3."""
    result = METHOD(jnp.array([[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 1.0, 0.0]]))
    np.testing.assert_allclose(result, (1 + 6.5 / 8, 1 + 6.5 * 5 / 24), rtol=1e-6)


def test_one_rate_gives_the_uniform_distribution():
    """Of one group, of several with one mean, of none."""
    rewards = jnp.array([[0.9] * 3, [0.9] * 3, [jnp.nan] * 3])
    for valid in (rewards > 0, jnp.zeros((3, 3), bool).at[0].set(True), jnp.zeros((3, 3), bool)):
        assert METHOD(rewards, valid) == (1, 1)


def test_oracle():
    for seed in range(2):
        fields = assemble(seed)
        arrays = fields["rewards"], fields["valid"]
        np.testing.assert_allclose(METHOD(*arrays), oracle.beta_parameters(*map(np.asarray, arrays)), rtol=1e-5)
