"""A function of rows and heads, on a mesh whose devices hold parts of the heads."""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P


def mesh():
    """Gives four devices along one axis."""
    return jax.make_mesh((4,), ("shards",), axis_types=(AxisType.Auto,))


def run(f, rows, heads, split, *, where="inside", check_vma=True, vocabulary=None):
    """Gives (loss, results), (gradients of rows[0] and heads[0]) of f(rows, heads, **options) -> (loss, results).

    Args:
        f: adds over its rows; results are per row.
        rows: arrays with rows first.
        heads: [D, V], V divisible by four or padded already.
        split: "vocab", each device with all rows and a quarter of V; or "fsdp", with a quarter of rows and of D.
        where: whether the gradient is taken "inside" of `shard_map` or "outside".
        check_vma: as of `shard_map`.
        vocabulary: V without the padding.
    """
    by_vocab = split == "vocab"
    options = {"vocab_axis": "shards", "vocabulary": vocabulary} if by_vocab else {"fsdp_axis": "shards"}
    row, head = (P(), P(None, "shards")) if by_vocab else (P("shards"), P("shards", None))

    def local(first_rows, first_head, other_rows, other_heads):
        loss, results = f((first_rows, *other_rows), (first_head, *other_heads), **options)
        # Without tracking, a sum over devices has a gradient of four times one.
        return (loss if by_vocab or not check_vma else jax.lax.psum(loss, "shards")), results

    def inside(*arguments):
        (loss, results), gradients = jax.value_and_grad(local, (0, 1), has_aux=True)(*arguments)
        return (loss if by_vocab or check_vma else jax.lax.psum(loss, "shards"), results), gradients

    arguments = rows[0], heads[0], rows[1:], heads[1:]
    values = P(), row
    place = functools.partial(jax.shard_map, mesh=mesh(), in_specs=(row, head, row, head), check_vma=check_vma)
    if where == "inside":
        return jax.device_get(jax.jit(place(inside, out_specs=(values, (row, head))))(*arguments))
    return jax.device_get(jax.jit(jax.value_and_grad(place(local, out_specs=values), (0, 1), has_aux=True))(*arguments))


def padded(head, value=9.0):
    """Gives a head whose V divides over four devices, the columns beyond holding what must not matter."""
    return jnp.pad(head, ((0, 0), (0, -head.shape[1] % 4)), constant_values=value)
