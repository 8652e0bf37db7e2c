import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.scores import generalized_advantages
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(generalized_advantages, static_argnames=("gamma", "lam", "holes"))


@pytest.mark.parametrize(
    ("holes", "first"),
    # The hole's neighbour sees the value 4 behind it, or 0; its own step then is one more factor of gamma lam = 1/4.
    [("skip", (1 + 0.5 * 4 - 2) + 0.25 * (3 - 4)), ("zero", (1 + 0 - 2) + 0.25 * (0 + 0.5 * 4 + 0.25 * (3 - 4)))],
)
def test_hand_numbers_around_a_hole(holes, first):
    rewards, values = jnp.array([[[1.0, jnp.nan, 3.0]]]), jnp.array([[[2.0, jnp.nan, 4.0]]])
    mask = jnp.array([[[True, False, True]]])
    advantages, returns = METHOD(rewards, values, mask, gamma=0.5, lam=0.5, holes=holes)
    np.testing.assert_array_equal(advantages[0, 0], [first, 0, -1])
    np.testing.assert_array_equal(returns[0, 0], [first + 2, 0, 3])


@pytest.mark.parametrize("holes", ["skip", "zero"])
def test_oracle(holes):
    for seed in range(3):
        fields = assemble(seed)
        arrays = [fields[name] for name in ("token_rewards", "values", "mask", "valid")]
        options = {"gamma": 0.9, "lam": 0.8, "holes": holes}
        expected = oracle.gae(*map(np.asarray, arrays), **options)
        np.testing.assert_allclose(np.stack(METHOD(*arrays, **options)), expected, rtol=1e-5, atol=1e-6)
