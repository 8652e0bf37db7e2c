"""What depends on the version of jax, so that the rest does not: from jax 0.10.2 to 0.12."""

from typing import TypeVar

import jax

Tree = TypeVar("Tree")


def vary_together(tree: Tree) -> Tree:
    """Returns the arrays marked as varying over every manual mesh axis that any of them varies over.

    Inside `shard_map` a custom backward rule must return gradients that vary over the same axes as its
    inputs: for a head that all data shards share, it would have to sum over them. Marked as varying before
    the rule, the head gets that sum from the transpose of the mark. Outside `shard_map` nothing changes.
    """
    union = frozenset().union(*map(_varying_axes, jax.tree.leaves(tree)))

    def mark(x: jax.Array) -> jax.Array:
        missing = tuple(sorted(union - _varying_axes(x)))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(mark, tree)


def _varying_axes(x: jax.Array) -> frozenset[str]:
    # Part of an array's type without a public name; it was `vma` in jax 0.9.
    return jax.typeof(x).manual_axis_type.varying
