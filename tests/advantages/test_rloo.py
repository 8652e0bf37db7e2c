import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxrl_tok.advantages import dr_grpo, rloo
from tests.conformance.fields import assemble
from tests.oracles import advantages as oracle


def test_hand_numbers():
    result = rloo(jnp.array([[1.0, 0.0, 0.0, 2.0]]), jnp.ones((1, 4, 1), bool))
    np.testing.assert_allclose(result[0, :, 0], [1 - 2 / 3, -1, -1, 2 - 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("singleton", ["zero", "raw"])
@pytest.mark.parametrize("seed", range(4))
def test_oracle(seed, singleton):
    fields = assemble(seed)
    rewards, mask, valid = (fields[name] for name in ("rewards", "mask", "valid"))
    arrays = map(np.asarray, (rewards, mask, valid))
    expected = oracle.group_relative(*arrays, divide_by_std=False, singleton=singleton, others_only=True)
    result = rloo(rewards, mask, valid, singleton=singleton)
    np.testing.assert_allclose(result, expected, rtol=1e-6, atol=1e-7)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(rewards=st.lists(st.floats(-4, 4, width=16), min_size=3, max_size=3))
def test_is_dr_grpo_times_n_over_n_minus_1(rewards):
    arrays = jnp.array([rewards]), jnp.ones((1, 3, 1), bool)
    np.testing.assert_allclose(rloo(*arrays), dr_grpo(*arrays) * 1.5, rtol=1e-6)
