"""What depends on the version of jax, so that the rest does not: from jax 0.10.2 to 0.12."""

from typing import Any, TypeVar

import jax
from jax.typing import DTypeLike

Tree = TypeVar("Tree")


def vary_together(tree: Tree, but: frozenset[str] = frozenset()) -> Tree:
    """Returns the arrays marked as varying over every manual mesh axis that any of them varies over.

    Axes in `but` are left as they are.

    Inside `shard_map` a custom backward rule must return gradients that vary over the same axes as its
    inputs: for a head that all data shards share, it would have to sum over them. Marked as varying before
    the rule, the head gets that sum from the transpose of the mark. Outside `shard_map` nothing changes.
    """
    union = frozenset().union(*map(varying_axes, jax.tree.leaves(tree))) - but

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(union - varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)


def argsort(x: jax.Array) -> jax.Array:
    """Returns the stable order of an array, marked as varying over the manual mesh axes that the array varies over.

    A sort of several operands marks each as it came, so the indices that go along count as the same everywhere; what
    they gather would then get its gradient by the indices of one device.
    """
    return vary_together((jax.numpy.argsort(x, stable=True), x))[0]


def varying_axes(x: jax.Array) -> frozenset[str]:
    """Returns the manual mesh axes that an array is known to vary over; none where that is not tracked."""
    # Part of an array's type without a public name; it was `vma` in jax 0.9.
    return jax.typeof(x).manual_axis_type.varying


def shaped_like(x: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """Returns a shape and type that varies over the manual mesh axes that x does: what a kernel gives of x."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)


def coordination() -> tuple[Any, int, int]:
    """Returns what `jax.distributed.initialize` has joined: a client with keys, values and barriers; index; count."""
    # Without a public name; Orbax takes it from here as well.
    from jax._src.distributed import global_state

    return global_state.client, global_state.process_id, global_state.num_processes


def cluster() -> tuple[str, int]:
    """Returns the kind of cluster that jax finds this process in, and how many processes it has; ("", 1) in none.

    `jax.distributed.initialize` asks the same classes, but cannot be asked without starting a server.
    """
    from jax._src.clusters import ClusterEnv

    kinds = (kind for kind in ClusterEnv._cluster_types if not kind.opt_in_only_method)
    found = next((kind for kind in kinds if kind.is_env_present()), None)
    return ("", 1) if found is None else (found.name, found.get_process_count())
