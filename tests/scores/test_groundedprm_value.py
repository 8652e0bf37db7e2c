import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.scores import groundedprm_value
from tests.oracles import structures as oracle

VALUE = jax.jit(groundedprm_value, static_argnames=("depth", "decay"))


def test_hand_numbers():
    """Verdicts 1 and -1, then a right answer: 1 * 2/4 - 1 * 1/4 + 1/2."""
    steps, exists = jnp.array([[[1.0, -1.0, jnp.nan]]]), jnp.array([[[True, True, False]]])
    result = VALUE(jnp.ones((1, 1)), steps, exists, depth=2, decay=0.5)
    np.testing.assert_allclose(result, [[[0.75, 0.375, 0.1875]]])
    assert oracle.groundedprm(1.0, [1.0, -1.0]) == 0.75
    np.testing.assert_array_equal(VALUE(jnp.ones((1, 1)), steps, exists & False), [[[1.0]]])
