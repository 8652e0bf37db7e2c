from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.scores import normalized_entropy
from jaxrl_tok.scores.normalized_entropy import EntropyScale, entropy_scale, on_scale
from tests.conformance.fields import mesh, step
from tests.oracles import weights as oracle

METHOD = jax.jit(normalized_entropy)


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("quantile", [0.5, 0.8])
def test_oracle(quantile, as_released):
    options = {"quantile": quantile, "as_released": as_released}
    method = jax.jit(partial(normalized_entropy, **options))
    for seed in range(2):
        fields = step(seed)
        arrays = fields["entropy"], fields["mask"]
        expected = oracle.normalized_entropy(*map(np.asarray, arrays), **options)
        np.testing.assert_allclose(method(*arrays), expected, rtol=1e-5, atol=1e-6)


def test_five_tokens_by_hand():
    """Logarithms 0 to 4; index 0.8 * 4 = 3.2 is nearest to 3, so 3 has 0, 4 has 1 and 0 has -1."""
    entropy = jnp.exp(jnp.array([[4.0, 3.0, 2.0], [1.0, 0.0, jnp.nan]]))
    mask = jnp.array([[True, True, True], [True, True, False]])
    expected = np.array([[1, 0, -1 / 3], [-2 / 3, -1, 0]])
    np.testing.assert_allclose(METHOD(entropy, mask), expected, atol=1e-6)
    released = jax.jit(partial(normalized_entropy, as_released=True))
    np.testing.assert_allclose(released(entropy, mask), np.abs(expected), atol=1e-6)


def test_equal_and_vanishing_entropies_are_finite():
    mask = jnp.ones((1, 4), bool)
    np.testing.assert_array_equal(METHOD(jnp.full((1, 4), 0.7), mask), jnp.zeros((1, 4)))
    result = METHOD(jnp.array([[0.0, 0.0, 1.0, 1.0]]), mask)  # the quantile is the larger one
    np.testing.assert_allclose(result, [[-1, -1, 0, 0]], rtol=1e-6)
    assert (result >= -1).all()


def test_over_shards():
    fields, spec = step(0), PartitionSpec("data")
    arrays = fields["entropy"], fields["mask"]
    method = partial(normalized_entropy, axis_name="data")
    sharded = jax.shard_map(method, mesh=mesh(), in_specs=spec, out_specs=spec)
    np.testing.assert_allclose(jax.jit(sharded)(*arrays), METHOD(*arrays), rtol=1e-6)


def test_entropies_of_another_batch_lie_on_the_scale_or_at_its_ends():
    """Of the logarithms 0 to 4 above: 0 at 3, one end 3 below it and the other 1 above."""
    scale = entropy_scale(jnp.exp(jnp.arange(5.0)).reshape(1, 5), jnp.ones((1, 5), bool))
    np.testing.assert_allclose(scale, (3, -3, 1), rtol=1e-6)
    others = jnp.exp(jnp.array([-5.0, 1.5, 3.0, 3.5, 9.0]))
    np.testing.assert_allclose(on_scale(others, scale), [-1, -0.5, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(on_scale(others, scale, as_released=True), [1, 0.5, 0, 0.5, 1], atol=1e-6)


def test_a_side_without_extent_has_nothing_but_0():
    others = jnp.array([0.0, 0.5, 2.0])
    np.testing.assert_array_equal(on_scale(others, EntropyScale(*jnp.zeros(3))), [0, 0, 0])
    np.testing.assert_array_equal(
        on_scale(others, EntropyScale(*jnp.array([0.0, -1.0, 0.0]))) == 0, [False, False, True]
    )
    empty = entropy_scale(jnp.full((1, 2), jnp.nan), jnp.zeros((1, 2), bool))
    np.testing.assert_array_equal(empty, (0, 0, 0))
