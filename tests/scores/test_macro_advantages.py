import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import macro_advantages
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(macro_advantages, static_argnames=("pooling", "as_released", "gamma", "lam"))
ALL = jnp.ones((1, 1, 3), bool)


def test_hand_numbers():
    """Macro actions {0, 1} and {2}: V = 3 and 1, R = 3 and 4; with lam = 0 the differences are 3 + 1 - 3 and 3."""
    arrays = jnp.array([[[1.0, 2.0, 4.0]]]), jnp.array([[[2.0, 4.0, 1.0]]]), jnp.array([[[True, False, True]]])
    result = METHOD(*arrays, ALL, lam=0.0)
    np.testing.assert_array_equal(result.macro_ids[0, 0], [0, 0, 1])
    np.testing.assert_array_equal(result.macro_rewards[0, 0], [3, 4, 0])
    np.testing.assert_array_equal(result.macro_values[0, 0], [3, 1, 0])
    np.testing.assert_array_equal(result.macro_advantages[0, 0], [1, 3, 0])
    np.testing.assert_array_equal(result.advantages[0, 0], [1, 1, 3])
    np.testing.assert_array_equal(result.returns[0, 0], [4, 4, 4])
    np.testing.assert_array_equal(METHOD(*arrays, ALL, lam=0.0, as_released=True).macro_rewards[0, 0], [1.5, 4, 0])


def test_an_empty_macro_action_bootstraps_from_zero():
    """The one before it sees the value 0 in place of 1, and the empty one's advantage 0 + 1 - 0 + lam 3."""
    arrays = jnp.array([[[1.0, 2.0, 4.0]]]), jnp.array([[[2.0, 4.0, 1.0]]]), jnp.array([[[1, 0, 2]]])
    result = METHOD(*arrays, ALL, lam=0.5)
    np.testing.assert_array_equal(result.advantages[0, 0], [(3 + 0 - 3) + 0.5 * (1 + 0.5 * 3)] * 2 + [3])


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("pooling", ["equal", "unit", "position"])
def test_oracle(pooling, as_released):
    options = {"gamma": 0.9, "lam": 0.8, "pooling": pooling, "as_released": as_released}
    for seed in range(2):
        fields = assemble(seed)
        counts = fields["boundaries"].astype(jnp.int32) * (1 + seed)  # for the second seed all with an empty one before
        arrays = [fields["token_rewards"], fields["values"], counts, fields["mask"], fields["valid"]]
        expected = oracle.ma_gae(*map(np.asarray, arrays), **options)
        result = METHOD(*arrays, **options)
        np.testing.assert_allclose(np.stack([result.advantages, result.returns]), expected, rtol=1e-5, atol=2e-6)
