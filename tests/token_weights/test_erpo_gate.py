import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.token_weights import erpo_gate
from tests.conformance.fields import assemble
from tests.oracles import weights as oracle


@pytest.mark.parametrize("gamma", [1.0, 2.5])
def test_oracle(gamma):
    method = jax.jit(lambda *arrays: erpo_gate(*arrays, gamma=gamma))
    fields = assemble(1)
    arrays = fields["old_entropy"], fields["mask"]
    np.testing.assert_allclose(method(*arrays), oracle.erpo_gate(*map(np.asarray, arrays), gamma), rtol=1e-5)


def test_three_tokens_by_hand():
    """1, 2, 3 have mean 2 and std 1, over both completions of the group."""
    entropy, mask = jnp.array([[[1.0, 2.0], [3.0, jnp.nan]]]), jnp.array([[[True, True], [True, False]]])
    expected = [[[1 / (1 + np.e), 0.5], [np.e / (1 + np.e), 0]]]
    np.testing.assert_allclose(jax.jit(erpo_gate)(entropy, mask), expected, rtol=1e-6)


def test_equal_entropies_open_every_gate_half():
    """0.9 in float32: its mean over 32 tokens is another number."""
    entropy = jnp.full((1, 4, 8), 0.9)
    np.testing.assert_array_equal(jax.jit(erpo_gate)(entropy, entropy > 0), jnp.full((1, 4, 8), 0.5))
