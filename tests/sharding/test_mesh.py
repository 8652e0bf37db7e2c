import jax
import pytest

from jaxrl_tok.errors import ShardingError
from jaxrl_tok.sharding.mesh import batch_shards, make_mesh


def test_minus_one_takes_what_the_other_axes_leave():
    mesh = make_mesh({"data": -1, "fsdp": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 1}
    assert batch_shards(mesh) == 4


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": -1, "tensor": 3}, {"data": 2}])
def test_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(ShardingError, match="does not fit 4 devices"):
        make_mesh(sizes, jax.devices())
