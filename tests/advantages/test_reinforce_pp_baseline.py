import jax
import jax.numpy as jnp
import numpy as np

from jaxrl_tok.advantages import reinforce_pp_baseline
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

METHOD = jax.jit(reinforce_pp_baseline, static_argnames="singleton")


def test_hand_numbers():
    """Centred 1/2 on one token, -1/2 on two, 0 on one: mean -1/8, squares 25/64 + 2 * 9/64 + 1/64 = 44/64 over 3."""
    rewards = jnp.array([[1.0, 0.0], [3.0, jnp.nan]])
    mask = jnp.array([[[True, False], [True, True]], [[True, False], [False, False]]])
    result = METHOD(rewards, mask, jnp.array([[True, True], [True, False]]))
    expected = np.array([[[5, 0], [-3, -3]], [[1, 0], [0, 0]]]) / 8 / (44 / 64 / 3) ** 0.5
    np.testing.assert_allclose(result, expected, rtol=1e-5)


def test_a_group_of_one_starts_from_its_reward_when_raw():
    fields = assemble(1)
    arrays = [fields["rewards"], fields["mask"], fields["valid"].at[1].set(jnp.arange(4) == 0)]
    rewards, mask, valid = map(np.asarray, arrays)

    def raw(values, i, _):
        return values[i] if len(values) == 1 else oracle.centred(values, i)

    centred = oracle.per_token(oracle.of_groups(rewards, mask, valid, raw), mask, valid)
    result = METHOD(*arrays, singleton="raw")
    np.testing.assert_allclose(result, oracle.whiten(centred, mask, valid), rtol=1e-5, atol=2e-6)
