import jax
import pytest
from jax.sharding import PartitionSpec

from jaxrl_tok.errors import ShardingError
from jaxrl_tok.models.params import ParamSpec
from jaxrl_tok.sharding.mesh import make_mesh
from jaxrl_tok.sharding.rules import ROLLOUT_RULES, param_shardings, sharding
from tests import tiny

MESH = make_mesh({"data": 1, "fsdp": 2, "tensor": 2})


def test_logical_axes_go_to_mesh_axes():
    assert sharding("w", (3, 8, 4), ("layers", "embed", "ffw"), MESH).spec == PartitionSpec(None, "fsdp", "tensor")


def test_experts_are_split_over_two_mesh_axes_where_both_have_devices():
    axes = ("layers", "experts", "embed", None)
    mesh = make_mesh({"expert": 2, "tensor": 2})
    spec = PartitionSpec(None, ("expert", "tensor"), None, None)
    assert sharding("w", (3, 4, 8, 6), axes, mesh).spec == spec
    assert sharding("w", (3, 4, 8, 6), axes, MESH).spec == PartitionSpec(None, "tensor", "fsdp", None)
    with pytest.raises(ShardingError, match=r"'experts' of 6 does not divide over 4 \(expert x tensor\)"):
        sharding("w", (3, 6, 8, 6), axes, mesh)


def test_an_axis_of_size_one_splits_nothing():
    mesh = make_mesh({"data": 4})
    assert sharding("w", (7, 5), ("embed", "ffw"), mesh).spec == PartitionSpec(None, None)


def test_a_vocabulary_that_does_not_divide_is_left_whole():
    assert sharding("w", (7, 4), ("vocab", "embed"), MESH).spec == PartitionSpec(None, "fsdp")


def test_for_rollouts_the_width_is_whole():
    spec = sharding("w", (6, 4), ("vocab", "embed"), MESH, ROLLOUT_RULES).spec
    assert spec == PartitionSpec("tensor", None)


def test_every_parameter_of_a_model_has_its_place():
    specs = tiny.model(experts=4, experts_per_token=2, qkv_bias=True, qk_norm="whole").specs()
    placed = param_shardings(specs, MESH)
    leaves = jax.tree.leaves(specs, is_leaf=lambda x: isinstance(x, ParamSpec))
    # All but norms are split.
    for spec, at in zip(leaves, jax.tree.leaves(placed), strict=True):
        parts = at.shard_shape(spec.shape)
        assert (parts == spec.shape) == (not {"embed", "heads", "kv_heads", "experts"} & {*spec.axes}), spec


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
