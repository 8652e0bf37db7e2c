import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ShardingError
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.rules import sharding

MESH = make_mesh({"data": 1, "fsdp": 2, "tensor": 2})


def test_logical_axes_go_to_mesh_axes():
    assert sharding("w", (3, 8, 4), ("layers", "embed", "ffw"), MESH).spec == PartitionSpec(None, "fsdp", "tensor")


def test_an_axis_of_size_one_splits_nothing():
    mesh = make_mesh({"data": 4})
    assert sharding("w", (7, 5), ("embed", "ffw"), mesh).spec == PartitionSpec(None, None)


@pytest.mark.parametrize(
    ("shape", "axes", "line"),
    [
        ((4,), ("embedd",), "w: unknown logical axis 'embedd'; did you mean 'embed'?"),
        ((4, 4), ("ffw", "heads"), "map to mesh axis 'tensor'"),
        ((5,), ("ffw",), "dimension 'ffw' of 5 does not divide over 2"),
    ],
)
def test_what_cannot_be_laid_out_names_the_parameter(shape, axes, line):
    with pytest.raises(ShardingError) as error:
        sharding("w", shape, axes, MESH)
    assert line in str(error.value)
