import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import ma_gae
from jaxrl_tok.advantages.ma_gae import returns
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(ma_gae, static_argnames=("lam", "as_released"))


def test_hand_numbers():
    """Macro actions {0, 1} and {2}: V = 3 and 1, R = 3 or 1.5, and 4; A = R + 1 - 3 + 3 / 2 and 3."""
    arrays = jnp.array([[[1.0, 2.0, 4.0]]]), jnp.array([[[2.0, 4.0, 1.0]]]), jnp.array([[[False, False, True]]])
    mask = jnp.ones((1, 1, 3), bool)
    np.testing.assert_array_equal(METHOD(*arrays, mask, lam=0.5)[0, 0], [2.5, 2.5, 3])
    np.testing.assert_array_equal(METHOD(*arrays, mask, lam=0.5, as_released=True)[0, 0], [1, 1, 3])


def test_oracle():
    fields = assemble(2)
    arrays = [fields[name] for name in ("token_rewards", "values", "boundaries", "mask", "valid")]
    expected, targets = oracle.ma_gae(*map(np.asarray, arrays))
    np.testing.assert_allclose(METHOD(*arrays), expected, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(jax.jit(returns)(*arrays), targets, rtol=1e-5, atol=2e-6)
