"""What depends on the version of jax, so that the rest does not: from jax 0.10.2 to 0.12."""

from typing import TypeVar

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


def varying_axes(x: jax.Array) -> frozenset[str]:
    """Returns the manual mesh axes that an array is known to vary over; none where that is not tracked."""
    # Part of an array's type without a public name; it was `vma` in jax 0.9.
    return jax.typeof(x).manual_axis_type.varying


def shaped_like(x: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.ShapeDtypeStruct:
    """Returns a shape and type that varies over the manual mesh axes that x does: what a kernel gives of x."""
    return jax.ShapeDtypeStruct(shape, dtype, manual_axis_type=jax.typeof(x).manual_axis_type)
