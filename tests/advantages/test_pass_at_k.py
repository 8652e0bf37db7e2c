import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import pass_at_k
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(pass_at_k, static_argnames=("eps", "use_std"))


def test_hand_numbers():
    """A lead of 1; two best ones; a group of one."""
    rewards = jnp.array([[1.0, 3.0, 2.0], [3.0, 3.0, 0.0], [jnp.nan, 5.0, jnp.nan]])
    arrays = rewards, jnp.ones((3, 3, 1), bool), ~jnp.isnan(rewards)
    expected = [[0, 1, 0], [0] * 3, [0] * 3]
    np.testing.assert_array_equal(METHOD(*arrays, use_std=False)[..., 0], expected)
    np.testing.assert_array_equal(METHOD(*arrays, eps=0.0)[..., 0], expected)  # the standard deviation is 1


@pytest.mark.parametrize("use_std", [True, False])
def test_oracle(use_std):
    for seed in range(3):
        arrays = [assemble(seed)[name] for name in ("rewards", "mask", "valid")]
        arrays[0] = arrays[0] + jnp.linspace(0, 0.1, 4)[None]  # so that most groups have one best
        rewards, mask, valid = map(np.asarray, arrays)

        def credit(*of_completion):
            return oracle.pass_at_k(*of_completion, use_std=use_std)

        expected = oracle.per_token(oracle.of_groups(rewards, mask, valid, credit), mask, valid)
        np.testing.assert_allclose(METHOD(*arrays, use_std=use_std), expected, rtol=1e-5, atol=1e-6)
        assert expected.any()
