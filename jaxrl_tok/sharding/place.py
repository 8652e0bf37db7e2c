"""Putting host arrays onto the mesh and bringing results back.

The same calls with the same values on every process: each puts what lies on its own devices, and gets all back.
"""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from jaxrl_tok.sharding.mesh import BATCH_AXES


def put(x: Any, sharding: Sharding) -> jax.Array:
    """Lays a host array out; of a sharding that other processes have a part in, the part that lies here."""
    if sharding.is_fully_addressable:
        return jax.device_put(x, sharding)
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """Splits the leading axis of every array over the batch axes; scalars are replicated."""

    def split(x: Any) -> jax.Array:
        spec = PartitionSpec(BATCH_AXES) if np.ndim(x) else PartitionSpec()
        return put(x, NamedSharding(mesh, spec))

    return jax.tree.map(split, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every array on every device."""
    return jax.tree.map(lambda x: put(x, NamedSharding(mesh, PartitionSpec())), tree)


def to_host(tree: Any) -> Any:
    """Returns a tree of NumPy arrays, in one transfer; with several processes, all of it on each of them."""
    return jax.device_get(jax.tree.map(_gathered, tree))


def _gathered(x: Any) -> Any:
    """Brings an array here of which parts are only on devices of other processes."""
    if not isinstance(x, jax.Array) or x.is_fully_addressable or x.is_fully_replicated:
        return x
    return multihost_utils.process_allgather(x, tiled=True)
