import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl_tok.advantages import gdpo
from jaxrl_tok.errors import ConfigError
from tests.conformance.fields import assemble
from tests.oracles import outcomes as oracle

WEIGHTS = 1.0, 0.5

METHOD = jax.jit(gdpo, static_argnames=("weights", "eps", "aggregation", "batch"))


def inputs(seed):
    arrays = [assemble(seed)[name] for name in ("reward_parts", "mask", "valid")]
    return arrays, [np.asarray(x) for x in arrays]


def test_hand_numbers():
    """Each completion is the better one in one part: a draw, whatever the scales; not so in the sum, 10 against 1."""
    parts = jnp.array([[[10.0, 0.0], [0.0, 1.0]]])
    result = METHOD(parts, jnp.ones((1, 2, 1), bool), batch="off", eps=0.0)
    np.testing.assert_allclose(result, np.zeros((1, 2, 1)), atol=1e-6)
    result = METHOD(parts, jnp.ones((1, 2, 1), bool), aggregation="sum_then_normalise", eps=0.0)
    np.testing.assert_allclose(result[0, :, 0], [0.5**0.5, -(0.5**0.5)], rtol=1e-6)


@pytest.mark.parametrize("batch", ["rows", "tokens", "off"])
def test_oracle(batch):
    arrays, (parts, mask, valid) = inputs(0)
    x = oracle.gdpo_scores(parts, mask, valid, WEIGHTS, 1e-4)
    if batch == "rows":
        x = oracle.standardised_rows(x, valid, 1e-4)
        flat = [[len({tuple(parts[p, g]) for g in oracle.members(valid, p)}) < 2] for p in range(len(valid))]
        x = np.where(flat, 0, x)
    expected = oracle.per_token(x, mask, valid)
    if batch == "tokens":
        expected = oracle.whiten(expected, mask, valid)
    np.testing.assert_allclose(METHOD(*arrays, weights=WEIGHTS, batch=batch), expected, rtol=2e-5, atol=2e-6)


def test_sum_then_normalise_oracle():
    arrays, (parts, mask, valid) = inputs(1)
    total = parts @ np.array(WEIGHTS)
    credit = oracle.of_groups(total, mask, valid, lambda v, i, _: oracle.centred(v, i) / (oracle.spread(v) + 1e-4))
    result = METHOD(*arrays, weights=WEIGHTS, aggregation="sum_then_normalise")
    np.testing.assert_allclose(result, oracle.per_token(credit, mask, valid), rtol=2e-5, atol=1e-6)


def test_a_group_without_a_difference_gives_exactly_zero():
    """Beside one whose scores sum to a rounding, which must not reach it."""
    parts = jnp.array([[[0.1, 0.7], [0.3, 0.1], [0.9, 0.2]], [[0.9, 0.9]] * 3])
    np.testing.assert_array_equal(METHOD(parts, jnp.ones((2, 3, 1), bool))[1], np.zeros((3, 1)))


def test_the_number_of_weights_is_that_of_the_rewards():
    with pytest.raises(ConfigError, match="weights has 1 numbers, but there are 2 rewards"):
        METHOD(jnp.ones((1, 2, 2)), jnp.ones((1, 2, 1), bool), weights=(1.0,))
