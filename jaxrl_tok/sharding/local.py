"""Functions that run on each device's part of their arrays, because the compiler could not split them itself.

A Pallas kernel is one opaque call, and a loop over blocks of keys or of the vocabulary is split badly or not at all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jaxtyping import Array

from jaxrl_tok.sharding.constrain import Axes, layout, partition

# The mesh axes of each logical axis; () for one that is whole.
Over = dict[str, tuple[str, ...]]


def per_shard(
    f: Callable[..., Any], arrays: Sequence[Array], axes: Sequence[Axes], out: Any, *, check: bool = True
) -> Any:
    """Returns f(*arrays, over) of arrays in parts, under `shard_map` over all mesh axes that the compiler has left.

    Without a mesh in use f is called as it is, with the whole arrays.

    Args:
        f: takes each device's parts, and the mesh axes of each logical axis.
        arrays: the whole arrays.
        axes: the logical axes of each, None for a dimension that is not split; see `constrain.ACTIVATIONS`.
        out: the logical axes of the results, a tuple of them for a tuple of results.
        check: whether it is tracked over which axes values differ; without it f takes no collective.
    """
    over = layout([x.shape for x in arrays], axes)
    mesh = jax.sharding.get_abstract_mesh()
    # Those of one device as well: a TPU kernel is compiled only where no axis is left to the compiler.
    left = {*mesh.axis_names} - {*mesh.manual_axes}
    if not left or mesh.size == 1:
        return f(*arrays, over)
    specs = tuple(partition(one, over) for one in axes)
    results = jax.tree.map(lambda one: partition(one, over), out, is_leaf=_is_axes)
    split = jax.shard_map(
        lambda *parts: f(*parts, over), in_specs=specs, out_specs=results, axis_names=left, check_vma=check
    )
    return split(*arrays)


def _is_axes(x: Any) -> bool:
    return isinstance(x, tuple) and all(axis is None or isinstance(axis, str) for axis in x)
