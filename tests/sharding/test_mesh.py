import dataclasses
import os

import jax
import numpy as np
import pytest
from jax.experimental import topologies

from jaxrl_tok.errors import ShardingError
from jaxrl_tok.sharding.mesh import AXES, batch_shards, make_mesh
from tests.helpers import need


def test_minus_one_takes_what_the_other_axes_leave():
    mesh = make_mesh({"data": -1, "fsdp": 2})
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "expert": 1, "sequence": 1, "tensor": 1}
    assert mesh.axis_names == AXES and batch_shards(mesh) == 4
    assert batch_shards(make_mesh({"expert": 2, "tensor": 2})) == 2


@pytest.mark.parametrize("sizes", [{"data": 3}, {"data": -1, "tensor": 3}, {"data": 2}])
def test_sizes_that_do_not_fit_are_named(sizes):
    with pytest.raises(ShardingError, match="does not fit 4 devices"):
        make_mesh(sizes, jax.devices())


@dataclasses.dataclass(frozen=True)
class Chip:
    """A stand-in for a TPU chip that knows its slice."""

    id: int
    slice_index: int
    platform: str = "cpu"
    device_kind: str = "chip"
    process_index: int = 0
    client: None = None


def chips(count, slices):
    """Chips in an order of their own."""
    return [Chip(i, i * slices // count) for i in np.random.default_rng(0).permutation(count).tolist()]


@pytest.mark.parametrize("axis", ["data", "fsdp"])
def test_of_several_slices_each_holds_one_part_of_its_axis(axis):
    """Along the slice axis the slice changes once, along all others never, in whatever order the devices come."""
    sizes = {"data": 4, "fsdp": 2, "tensor": 2} if axis == "data" else {"data": 2, "fsdp": 4, "tensor": 2}
    mesh = make_mesh(sizes, chips(16, 2), slices=2, slice_axis=axis)
    assert dict(mesh.shape) == sizes | {"expert": 1, "sequence": 1}
    at = np.moveaxis(np.vectorize(lambda device: device.slice_index)(mesh.devices), AXES.index(axis), 0)
    assert (at[:2] == 0).all() and (at[2:] == 1).all()
    assert sorted(device.id for device in mesh.devices.flat) == list(range(16))


def test_devices_that_do_not_know_their_slice_are_cut_in_their_order():
    mesh = make_mesh({"data": 2, "tensor": 2}, slices=2)
    assert [device.id for device in mesh.devices.flat] == [device.id for device in jax.devices()]


@pytest.mark.parametrize(
    ("found", "sizes", "line"),
    [
        (2, {"data": 8}, "mesh.slices = 4: the devices lie in 2 slices"),
        (4, {"data": 2, "tensor": 4}, "mesh: data = 2 does not divide over 4 slices"),
    ],
)
def test_slices_that_are_not_there_are_refused(found, sizes, line):
    with pytest.raises(ShardingError, match=line):
        make_mesh(sizes, chips(8, found), slices=4)


@pytest.mark.aot
def test_of_two_tpu_slices_neighbours_lie_along_tensor(monkeypatch):
    """v5e 4x4 twice: `data` is across the slices, and a row of `tensor` is a row of the slice."""
    need("libtpu")
    for name in ("TPU_SKIP_MDS_QUERY", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setitem(os.environ, name, "1")
    chips = topologies.get_topology_desc(platform="tpu", topology_name="v5e:4x4", num_slices=2).devices
    mesh = make_mesh({"data": 2, "fsdp": 4, "tensor": 4}, chips, slices=2)
    for index, part in enumerate(mesh.devices):
        assert {chip.slice_index for chip in part.flat} == {index}
        for row in part.reshape(4, 4):
            assert len({tuple(chip.coords[:2]) for chip in row}) == 4
            assert len({chip.coords[0] for chip in row}) == 1 or len({chip.coords[1] for chip in row}) == 1
