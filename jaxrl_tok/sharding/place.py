"""Putting host arrays onto the mesh and bringing results back."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxrl_tok.sharding.mesh import BATCH_AXES


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """Splits the leading axis of every array over the batch axes; scalars are replicated."""

    def put(x: Any) -> jax.Array:
        spec = PartitionSpec(BATCH_AXES) if np.ndim(x) else PartitionSpec()
        return jax.device_put(x, NamedSharding(mesh, spec))

    return jax.tree.map(put, tree)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def to_host(tree: Any) -> Any:
    """Returns a tree of NumPy arrays, in one transfer."""
    return jax.device_get(tree)
