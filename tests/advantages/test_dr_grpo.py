import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import dr_grpo
from tests.conformance.fields import assemble
from tests.oracles import advantages as oracle


def test_hand_numbers():
    result = dr_grpo(jnp.array([[1.0, 0.0, 0.0, 2.0]]), jnp.ones((1, 4, 1), bool))
    np.testing.assert_array_equal(result[0, :, 0], [0.25, -0.75, -0.75, 1.25])


@pytest.mark.parametrize("singleton", ["zero", "raw"])
@pytest.mark.parametrize("seed", range(4))
def test_oracle(seed, singleton):
    fields = assemble(seed)
    rewards, mask, valid = (fields[name] for name in ("rewards", "mask", "valid"))
    arrays = map(np.asarray, (rewards, mask, valid))
    expected = oracle.group_relative(*arrays, divide_by_std=False, singleton=singleton)
    np.testing.assert_allclose(dr_grpo(rewards, mask, valid, singleton=singleton), expected, rtol=1e-6)
