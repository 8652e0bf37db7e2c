import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.scores import whiten
from tests.conformance.fields import assemble, mesh
from tests.oracles import outcomes as oracle

METHOD = jax.jit(whiten, static_argnames="form")


def test_hand_numbers():
    """Values 1, 1, 4: mean 2, squares 1 + 1 + 4, which is 3 over n - 1 and 2 over n."""
    arrays = jnp.array([[[1.0, 1.0, 4.0, jnp.nan]]]), jnp.array([[[True, True, True, False]]])
    np.testing.assert_allclose(METHOD(*arrays)[0, 0], np.array([-1, -1, 2, 0]) / 3**0.5, rtol=1e-6)
    result = METHOD(*arrays, form="openrlhf")
    np.testing.assert_allclose(result[0, 0], np.array([-1, -1, 2, 0]) / 2**0.5, rtol=1e-6)


@pytest.mark.parametrize("form", ["verl", "openrlhf"])
def test_oracle(form):
    fields = assemble(0)
    arrays = [fields[name] for name in ("advantages", "mask", "valid")]
    expected = oracle.whiten(*map(np.asarray, arrays), form)
    np.testing.assert_allclose(METHOD(*arrays, form=form), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_equal_values_give_exactly_zero(count):
    """The mean of seven times 0.1 is not 0.1 in float32."""
    result = METHOD(jnp.full((1, 1, 7), 0.1), jnp.arange(7)[None, None] < count)
    np.testing.assert_array_equal(result, np.zeros((1, 1, 7)))


def test_in_shard_map_it_is_the_whole_batch_with_an_axis_name():
    fields = assemble(0)
    arrays = tuple(fields[name] for name in ("advantages", "mask", "valid"))
    spec = PartitionSpec("data")

    def sharded(axis_name):
        local = jax.shard_map(
            lambda *a: whiten(*a, axis_name=axis_name), mesh=mesh(), in_specs=(spec,) * 3, out_specs=spec
        )
        return jax.jit(local)(*arrays)

    np.testing.assert_allclose(sharded("data"), METHOD(*arrays), rtol=1e-5, atol=1e-6)
    assert not np.allclose(sharded(None), METHOD(*arrays), atol=1e-2)
